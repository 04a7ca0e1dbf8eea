//! A power cut at every step: only what the disk got is there afterwards. A file system in a file
//! is shut down without writing what it still has in memory.

use std::process::{Command, Stdio};

use crate::transaction::tests::*;

/// An ext4 file system in a file. Mounting it needs root, as other tests of this project do.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let disk = Disk { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(disk.root()).unwrap();
        fs::File::create(disk.image()).unwrap().set_len(24 << 20).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &disk.image()]);
        disk
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn before(&self) -> PathBuf {
        self.folder.path().join("before")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Mounts a copy of the image. A mount namespace of another process, such as one of `ip netns
    /// exec`, may have kept the file system that was unmounted here, and would then be given again.
    pub(crate) fn mount(&self) {
        let copy = self.folder.path().join("copy");
        run("cp", &["--sparse=always".as_ref(), &self.image(), &copy]);
        fs::rename(copy, self.image()).unwrap();
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image(), &self.root()]);
    }

    /// Unmounts it once it is not busy any more: a child of another test has this process's
    /// descriptors until it becomes its program.
    pub(crate) fn unmount(&self) {
        // Nothing is left for whoever keeps it. After a power cut this fails.
        let _ = Command::new("sync").arg("-f").arg(self.root()).stderr(Stdio::null()).status();
        let began = Instant::now();
        loop {
            let umount = Command::new("umount").arg(self.root()).output().unwrap();
            if umount.status.success() {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{umount:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the file system as a power cut does, and mounts it again.
    fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c".as_ref(), SHUTDOWN.as_ref(), &self.root()]);
        self.unmount();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Only after a failure it is mounted still.
        let _ = Command::new("umount").arg("-l").arg(self.root()).stderr(Stdio::null()).status();
    }
}

pub(crate) fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{program} {arguments:?}: {status:?}");
}

#[test]
fn the_power_fails_at_every_step() {
    // Both ways to make a step durable: all at once, and each file by itself.
    for each in [false, true] {
        power_fails_at_every_step(each);
    }
}

fn power_fails_at_every_step(each: bool) {
    let (mut site, second) = step();
    let disk = Disk::new();
    disk.mount();
    run("cp", &["-a".as_ref(), &site.folder().join("."), &disk.root()]);
    disk.unmount();
    fs::rename(disk.image(), disk.before()).unwrap();
    site.other = Some(disk.root());
    for at in 0.. {
        run("cp", &["--sparse=always".as_ref(), &disk.before(), &disk.image()]);
        disk.mount();
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        run("sync", &["-f".as_ref(), &disk.root()]);
        injected::set_much_unwritten(Some(each));
        injected::set(Some((at, Mode::Dead)));
        let result = take(&mut host, second, &audience);
        drop(host);
        let finished = injected::set(None) <= at;
        let what = format!("the power failed at step {at}, each file by itself: {each}");
        disk.cut_power();
        // Readers may start before the agent does.
        let found = seen(&site);
        assert!(found == 2 || !finished, "{what}: {result:?}, and readers were told of it");
        let (mut host, audience) = site.open();
        assert_eq!(host.verify().problems, [""; 0], "{what}");
        host.settle(&audience).unwrap();
        take(&mut host, second, &audience).unwrap();
        assert_eq!(seen(&site), 2, "{what}");
        assert_eq!(host.verify().problems, [""; 0], "{what}");
        site.assert_tidy();
        drop(host);
        disk.unmount();
        if finished {
            println!("the power failed at each of {at} steps, each file by itself: {each}");
            assert!(at > 20, "only {at} steps");
            break;
        }
    }
    injected::set_much_unwritten(None);
}
