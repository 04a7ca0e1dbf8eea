//! A disk of a test's own: it can be filled, turn read-only and lose its power. Only root can mount
//! one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    program::{command, run, text},
    wait::eventually,
};

/// An ext4 file system in a file, mounted at a folder.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    root: PathBuf,
}

impl Disk {
    /// Makes one of so many megabytes, and mounts it.
    pub fn mount(root: &Path, megabytes: u64) -> Self {
        let disk = Disk { image: root.with_extension("image"), root: root.to_owned() };
        fs::create_dir_all(root).expect("the folder can be made");
        let image = fs::File::create(&disk.image).expect("the folder can be written");
        image.set_len(megabytes << 20).expect("a file without content takes no room");
        done("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &disk.image]);
        disk.mount_again();
        disk
    }

    /// Takes all the room there is, with a file that it returns.
    pub fn fill(&self) -> PathBuf {
        let file = self.root.join("filler");
        let mut written = fs::File::create(&file).expect("one more file");
        let chunk = vec![0; 64 << 10];
        while std::io::Write::write(&mut written, &chunk).is_ok_and(|length| length > 0) {}
        file
    }

    /// Has it refuse every write, as ext4 does after an error, until [`Disk::remount`].
    pub fn turn_read_only(&self) {
        done("mount", &["-o".as_ref(), "remount,abort".as_ref(), &self.root]);
        // The journal is looked at with the next write.
        let _ = fs::write(self.root.join("filler"), "x");
    }

    /// Ends it as a power cut does: what it has in memory is lost, and all that is asked of it fails,
    /// until [`Disk::remount`].
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        done("python3", &["-c".as_ref(), SHUTDOWN.as_ref(), &self.root]);
    }

    /// Mounts it anew, once nobody has a file of it open.
    pub fn remount(&self) {
        eventually(&format!("{} to be unmounted", self.root.display()), || {
            let mut unmount = command("umount", Path::new("/"));
            unmount.arg(&self.root);
            let output = run(unmount);
            if output.status.success() { Ok(()) } else { Err(text(&output)) }
        });
        self.mount_again();
        let _ = fs::remove_file(self.root.join("filler"));
    }

    /// Mounts a copy of the image. A mount namespace of another process may have kept the file system
    /// that was unmounted here, and would then be given again.
    fn mount_again(&self) {
        let copy = self.image.with_extension("copy");
        done("cp", &["--sparse=always".as_ref(), &self.image, &copy]);
        fs::rename(copy, &self.image).expect("both are in one folder");
        done("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.root]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut unmount = command("umount", Path::new("/"));
        // Whoever still has files there is on their way out.
        unmount.arg("-l").arg(&self.root);
        run(unmount);
    }
}

#[track_caller]
fn done(program: &str, arguments: &[&Path]) {
    let mut command = command(program, Path::new("/"));
    command.args(arguments);
    let output = run(command);
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
}
