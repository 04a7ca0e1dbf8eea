//! A file of lines that is put aside when it is full.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A file that lines are appended to. When it is full, it becomes `NAME.1`, that one `NAME.2` and
/// so on; the oldest is deleted.
#[derive(Debug)]
pub struct RollingFile {
    path: PathBuf,
    file: File,
    bounds: Bounds,
    /// The last write ended within a line.
    is_torn: bool,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The size in bytes at which a file is full.
    full: u64,
    /// How many full files are kept.
    kept: usize,
}

impl RollingFile {
    /// Opens the file, and makes it when it is missing. A file is full from `full` bytes on, and
    /// `kept` full ones are kept.
    pub fn open(path: &Path, full: u64, kept: usize) -> io::Result<Self> {
        Ok(RollingFile { path: path.to_owned(), file: open(path)?, bounds: Bounds { full, kept }, is_torn: false })
    }

    /// Appends whole lines. It does not wait for the disk.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let about = self.file.metadata()?;
        if !self.is_there(&about) {
            // Somebody moved or removed it: another program that puts files aside.
            self.file = open(&self.path)?;
            self.is_torn = false;
        } else if about.len() >= self.bounds.full {
            self.put_aside()?;
            self.file = open(&self.path)?;
            self.is_torn = false;
        }
        if self.is_torn {
            self.file.write_all(b"\n")?;
        }
        self.is_torn = true;
        self.file.write_all(lines)?;
        self.is_torn = false;
        Ok(())
    }

    /// Waits until the disk has what was appended.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The paths of the file and of those that were put aside, newest first.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let path = self.path.clone();
        (0..=self.bounds.kept).map(move |number| numbered(&path, number))
    }

    fn is_there(&self, about: &Metadata) -> bool {
        fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (about.dev(), about.ino()))
    }

    /// Makes room for a new file. A crash in between loses at most the oldest file.
    fn put_aside(&self) -> io::Result<()> {
        for number in (0..self.bounds.kept).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Opens a file for appending; a last line that a crash cut short is ended, so that the next one is
/// a line of its own.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    if about.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &RollingFile) -> String {
        file.paths().filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RollingFile::open(&folder.path().join("a.jsonl"), 4, 2).unwrap();
        (1..=7).for_each(|number| file.append(format!("{number}\n").as_bytes()).unwrap());
        assert_eq!(lines(&file), "7\n|5\n6\n|3\n4\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_somebody_moved_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let mut file = RollingFile::open(&path, 1 << 20, 2).unwrap();
        file.append(b"1\n").unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[test]
    fn a_line_that_was_cut_short_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "1\n{\"cut").unwrap();
        let mut file = RollingFile::open(&path, 1 << 20, 2).unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"cut\n2\n");
        assert!(RollingFile::open(folder.path(), 1, 1).is_err(), "a folder is no file");
    }
}
