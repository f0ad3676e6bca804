//! A disk of a test's own that turns read-only under a running process, as a server's disk does at its first error: ext4 in a file.
//! Mounting one takes root and loop devices; without them the test is told so and left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Some times what a gateway needs: after a kill there are two epochs for a while.
const SIZE: &str = "256M";

pub struct BreakingDisk {
    at: PathBuf,
    image: PathBuf,
    _dir: TempDir,
}

impl BreakingDisk {
    pub fn mount() -> Option<BreakingDisk> {
        let dir = tempfile::Builder::new().prefix("apihub-disk-").tempdir_in("/tmp").unwrap();
        let disk = BreakingDisk { at: dir.path().join("disk"), image: dir.path().join("image"), _dir: dir };
        std::fs::create_dir(&disk.at).unwrap();
        let image = disk.image.to_str().unwrap();
        let is_there = run("truncate", &["-s", SIZE, image])
            && run("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            && disk.mount_image();
        is_there.then_some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Whatever is open stays open, and nothing can be written any more.
    pub fn turn_read_only(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(self.text())).unwrap();
        let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap().to_owned();
        std::fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "1").unwrap();
        assert!(std::fs::File::create(self.at.join("x")).is_err(), "the disk can still be written");
    }

    /// As after a repair: what was on it, and writable. Nobody may be using it.
    pub fn mount_again(&self) {
        assert!(run("umount", &[self.text()]));
        assert!(self.mount_image());
    }

    fn mount_image(&self) -> bool {
        run("mount", &["-o", "loop,errors=remount-ro", self.image.to_str().unwrap(), self.text()])
    }

    fn text(&self) -> &str {
        self.at.to_str().unwrap()
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let refused = match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("left out, because this machine mounts no disk for us: {program}: {refused}");
    false
}

impl Drop for BreakingDisk {
    /// Lazily: whoever still has a file open there ends soon.
    fn drop(&mut self) {
        let _was_not_mounted = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
