//! A private Postgres: its own data directory, a unix socket in a folder of mode 0700, no port but one of the loopback where
//! that is asked for. Postgres refuses to run as root, so root hands it to the user `postgres` (else `nobody`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ServerFault;
use crate::place::private_dir;
use crate::process::{POLL, die_with_parent, kill, send, wait_or_kill};
use rustix::process::Signal;

const PROGRAM: &str = "Postgres";
const INSTALL: &str = "apt-get install postgresql";
/// Recovery after a crash reads the log since the last checkpoint; a minute is far beyond what a desk needs.
const READY_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(30);
/// Of TLS, beside the data.
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";
/// What it says when children of a killed server still live.
const STILL_IN_USE: &str = "is still in use";
/// The one role and its name in every URL.
const ROLE: &str = "apihub";

/// Whether a crash of the machine may lose what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Durable,
    /// For throw-away clusters of tests.
    ThrowAway,
}

#[derive(Debug)]
pub struct PrivatePostgres {
    dir: PathBuf,
    programs: PathBuf,
    durability: Durability,
    /// Where it listens with TLS, beside the socket.
    port: Option<u16>,
    child: Child,
}

impl PrivatePostgres {
    /// Starts a cluster in `dir`, which is made on first use. Call from a thread that lives as long as the cluster.
    pub fn start(dir: &Path, durability: Durability) -> Result<PrivatePostgres, ServerFault> {
        PrivatePostgres::launch(dir, durability, None)
    }

    /// A throw-away cluster that listens on a port of the loopback, with TLS. Certificate and key are PEM texts.
    pub fn start_with_tls(dir: &Path, port: u16, certificate: &str, key: &str) -> Result<PrivatePostgres, ServerFault> {
        let owner = other_user();
        private_dir(dir, owner)?;
        for (name, text) in [(CERTIFICATE, certificate), (KEY, key)] {
            let path = dir.join(name);
            write_private(&path, text, owner)
                .map_err(|error| ServerFault::Directory { path, reason: error.to_string() })?;
        }
        PrivatePostgres::launch(dir, Durability::ThrowAway, Some(port))
    }

    fn launch(dir: &Path, durability: Durability, port: Option<u16>) -> Result<PrivatePostgres, ServerFault> {
        let programs = find_programs()?;
        let owner = other_user();
        private_dir(dir, owner)?;
        let data = dir.join("data");
        if data.join("PG_VERSION").exists() {
            check_version(&data, &programs)?;
            await_predecessor(&data);
        } else {
            initdb(&programs, &data, owner)?;
        }
        let child = spawn(&programs, dir, durability, port, owner)?;
        let mut postgres = PrivatePostgres { dir: dir.to_owned(), programs, durability, port, child };
        postgres.wait_ready()?;
        Ok(postgres)
    }

    /// Starts it again after it ended or was killed.
    pub fn restart(&mut self) -> Result<(), ServerFault> {
        kill(&mut self.child);
        await_predecessor(&self.dir.join("data"));
        self.child = spawn(&self.programs, &self.dir, self.durability, self.port, other_user())?;
        self.wait_ready()
    }

    /// A connection URL for a database of this cluster, over its socket or, where it has one, its port.
    pub fn url(&self, database: &str) -> String {
        if let Some(port) = self.port {
            return format!("postgresql://{ROLE}@localhost:{port}/{database}");
        }
        let socket_dir = self.dir.display().to_string().replace('/', "%2F");
        format!("postgresql://{ROLE}@{socket_dir}/{database}")
    }

    /// The process, to wait for or to send signals to.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Ends sessions, writes a checkpoint and stops. Killed after half a minute.
    pub fn stop(&mut self) {
        send(&self.child, Signal::INT);
        wait_or_kill(&mut self.child, STOP_WAIT);
    }

    fn wait_ready(&mut self) -> Result<(), ServerFault> {
        let log = self.dir.join("postgres.log");
        let deadline = Instant::now() + READY_WAIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                if !fs::read_to_string(&log).unwrap_or_default().contains(STILL_IN_USE) {
                    return Err(ServerFault::Ended { program: PROGRAM, status: status.to_string(), log });
                }
                // They end by themselves as soon as they see that it is gone.
                std::thread::sleep(POLL);
                self.child = spawn(&self.programs, &self.dir, self.durability, self.port, other_user())?;
            }
            if is_ready(&self.dir.join("data"), self.child.id()) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(ServerFault::NotReady { program: PROGRAM, waited_s: READY_WAIT.as_secs(), log })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// A server that still runs on this data is given time to end: two on one directory would destroy it. A number that now
/// belongs to another program was left by a crash of the whole machine, and its file is removed.
fn await_predecessor(data: &Path) {
    let file = data.join("postmaster.pid");
    let deadline = Instant::now() + STOP_WAIT;
    while Instant::now() < deadline {
        let Ok(text) = fs::read_to_string(&file) else { return };
        let pid = text.lines().next().unwrap_or_default().trim();
        match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(program) if program.trim() == "postgres" => std::thread::sleep(POLL),
            Ok(_) => {
                let _gone_meanwhile = fs::remove_file(&file);
                return;
            }
            // It was killed. By this file Postgres itself finds out whether children of it still live, and then refuses to start.
            Err(_) => return,
        }
    }
}

/// The eighth line of `postmaster.pid` is the server's own word for its state.
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

fn write_private(path: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = owner { std::os::unix::fs::chown(path, Some(uid), Some(gid)) } else { Ok(()) }
}

fn spawn(
    programs: &Path,
    dir: &Path,
    durability: Durability,
    port: Option<u16>,
    owner: Option<(u32, u32)>,
) -> Result<Child, ServerFault> {
    let start = |error: io::Error| ServerFault::Start { program: PROGRAM, reason: error.to_string() };
    let log = File::create(dir.join("postgres.log")).map_err(start)?;
    let mut command = Command::new(programs.join("postgres"));
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    command.args(["-c", "listen_addresses=", "-c", "max_connections=200", "-c", "unix_socket_permissions=0700"]);
    if durability == Durability::ThrowAway {
        // What was committed is in the kernel's hands and so survives a kill -9, but not a crash of the machine.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
    }
    if let Some(port) = port {
        command.args(["-c", "listen_addresses=localhost", "-c", "ssl=on", "-c", &format!("port={port}")]);
        command.args(["-c".to_owned(), format!("ssl_cert_file={}", dir.join(CERTIFICATE).display())]);
        command.args(["-c".to_owned(), format!("ssl_key_file={}", dir.join(KEY).display())]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir(dir);
    as_user(&mut command, owner);
    die_with_parent(&mut command, Signal::INT);
    command.spawn().map_err(start)
}

fn initdb(programs: &Path, data: &Path, owner: Option<(u32, u32)>) -> Result<(), ServerFault> {
    let mut command = Command::new(programs.join("initdb"));
    command.arg("-D").arg(data).args(["--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]);
    command.arg("--no-sync").stdin(Stdio::null()).current_dir("/");
    as_user(&mut command, owner);
    let output =
        command.output().map_err(|error| ServerFault::Start { program: "initdb", reason: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServerFault::Start { program: "initdb", reason })
}

fn check_version(data: &Path, programs: &Path) -> Result<(), ServerFault> {
    let found = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default().trim().to_owned();
    let output = Command::new(programs.join("postgres")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let installed = text.split_whitespace().nth(2).and_then(|version| version.split('.').next()).unwrap_or_default();
    if found == installed {
        return Ok(());
    }
    Err(ServerFault::OtherMajorVersion { path: data.to_owned(), found, installed: installed.to_owned() })
}

/// The newest `/usr/lib/postgresql/*/bin`, else what the PATH has; `postgres` and `initdb` must lie together.
fn find_programs() -> Result<PathBuf, ServerFault> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    installed.sort();
    let from_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut places = installed.into_iter().rev().map(|(_, bin)| bin).chain(from_path);
    places
        .find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .ok_or(ServerFault::NotInstalled { program: PROGRAM, install: INSTALL })
}

/// As root: the user that Postgres shall run as.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

fn as_user(command: &mut Command, owner: Option<(u32, u32)>) {
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_is_killed_and_starts_again_with_its_data() {
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut postgres = PrivatePostgres::start(&dir.path().join("pg"), Durability::Durable).unwrap();
        assert!(dir.path().join("pg/.s.PGSQL.5432").exists());
        send(postgres.child(), Signal::KILL);
        postgres.restart().unwrap();
        postgres.stop();
        assert!(matches!(postgres.child().try_wait(), Ok(Some(_))));
        drop(postgres);
        assert!(PrivatePostgres::start(&dir.path().join("pg"), Durability::Durable).is_ok());
    }

    #[test]
    fn a_directory_of_another_major_version_is_refused_with_both_named() {
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        fs::create_dir_all(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/PG_VERSION"), "9\n").unwrap();
        let fault = PrivatePostgres::start(dir.path(), Durability::Durable).unwrap_err();
        assert!(matches!(&fault, ServerFault::OtherMajorVersion { found, .. } if found == "9"), "{fault}");
    }
}
