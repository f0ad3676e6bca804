//! One running role of the real program, which a test may kill, freeze and start again.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use apihub::role_files::Secrets;
use servers::{Signal, die_with_parent, send};

use super::wait::eventually;

pub struct Role {
    name: String,
    file: PathBuf,
    log: PathBuf,
    secrets: Secrets,
    ready_url: String,
    child: Child,
}

impl Role {
    /// Starts `apihub <role> --config <file>`; its log lies beside the file.
    pub fn start(role: &str, file: PathBuf, secrets: Secrets, ready_url: String) -> Role {
        let log = file.with_extension("log");
        let child = spawn(role, &file, &log, &secrets, &[]);
        Role { name: role.to_owned(), file, log, secrets, ready_url, child }
    }

    pub async fn ready(&self) {
        let client = reqwest::Client::new();
        eventually(&format!("{} is ready; see {}", self.name, self.log.display()), || async {
            client.get(&self.ready_url).send().await.ok().filter(|answer| answer.status() == 200)
        })
        .await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(&format!("{name} ends"), || async { child.borrow_mut().try_wait().unwrap() }).await
    }

    /// None: it is ready.
    pub async fn ready_or_ended(&mut self) -> Option<ExitStatus> {
        let what = format!("{} is ready or ends; see {}", self.name, self.log.display());
        let (client, url) = (reqwest::Client::new(), self.ready_url.clone());
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(&what, || async {
            let ended = child.borrow_mut().try_wait().unwrap();
            let is_ready = client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200);
            (is_ready || ended.is_some()).then_some(ended)
        })
        .await
    }

    /// As a supervisor does: where it has ended by itself, it is started again.
    pub fn supervise(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            self.start_again();
        }
    }

    pub fn start_again(&mut self) {
        self.child = spawn(&self.name, &self.file, &self.log, &self.secrets, &[]);
    }

    /// Starts a successor with `--upgrade` beside the running process; the caller then sends SIGQUIT to the old one.
    pub fn successor(&self) -> Role {
        let log = self.file.with_extension("successor.log");
        let child = spawn(&self.name, &self.file, &log, &self.secrets, &["--upgrade"]);
        Role {
            name: self.name.clone(),
            file: self.file.clone(),
            log,
            secrets: self.secrets.clone(),
            ready_url: self.ready_url.clone(),
            child,
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(30).collect::<Vec<_>>();
            eprintln!("--- the end of {}:", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn spawn(role: &str, file: &PathBuf, log: &PathBuf, secrets: &Secrets, more: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(program());
    command.arg(role).arg("--config").arg(file).args(more).envs(secrets.environment(role));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    die_with_parent(&mut command, Signal::KILL);
    command.spawn().unwrap()
}

/// The program under test; another build of it where the environment names one.
fn program() -> std::ffi::OsString {
    std::env::var_os("APIHUB_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_apihub").into())
}
