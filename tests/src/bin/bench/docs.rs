//! The page of the documentation, from what the runs have written.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;
use tests::figures::Performance;

/// The page, its figures, and the folder of its plots.
const PAGE: &str = "docs/performance.md";
const FIGURES: &str = "docs/performance.json";
const PLOTS: &str = "docs/performance";

/// Reads what the runs have written to `out`, and writes figures, page and plots. A part without a
/// run stays as it was.
pub(crate) fn write(out: &Path) -> io::Result<()> {
    let before: Performance = read(Path::new(FIGURES))?.unwrap_or_default();
    let performance = Performance {
        report: read(&out.join("performance.json"))?.unwrap_or(before.report),
        trace: read(&out.join("trace.json"))?.or(before.trace),
        scale: read(&out.join("scale.json"))?.or(before.scale),
    };
    fs::write(FIGURES, format!("{}\n", serde_json::to_string_pretty(&performance)?))?;
    fs::write(PAGE, performance.page())?;
    fs::create_dir_all(PLOTS)?;
    for entry in fs::read_dir(PLOTS)? {
        fs::remove_file(entry?.path())?;
    }
    for (file, content) in performance.plots() {
        fs::write(Path::new(PLOTS).join(file), content)?;
    }
    eprintln!("bench: {PAGE} is written");
    Ok(())
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
