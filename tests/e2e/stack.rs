//! `apihub up` as a new user runs it: the printed line works, a second start keeps the data, Ctrl-C stops all of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use apihub::up::report::UpReport;
use servers::{Signal, die_with_parent, send};

use crate::harness::{choose_tls_provider, eventually};

fn up(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apihub"));
    command.args(["up", "--gateway-port", "0", "--control-plane-port", "0", "--admin-port", "0", "--echo-port", "0"]);
    command.arg("--data-dir").arg(dir).env_remove("DATABASE_URL").env_remove("REDIS_URL");
    let log = std::fs::File::create(dir.with_extension("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    die_with_parent(&mut command, Signal::TERM);
    command.spawn().unwrap()
}

/// The report of this start; an older one is taken away first.
async fn report(dir: &Path) -> UpReport {
    let log = dir.with_extension("log");
    eventually(&format!("up.json is written; see {}", log.display()), || async {
        let printed = std::fs::read_to_string(&log).unwrap_or_default();
        if !printed.contains("API-HUB is up") {
            return None;
        }
        serde_json::from_str(&std::fs::read_to_string(dir.join("up.json")).ok()?).ok()
    })
    .await
}

async fn ended(child: &mut Child) -> bool {
    let child = std::cell::RefCell::new(child);
    eventually("it ends", || async { child.borrow_mut().try_wait().unwrap() }).await.success()
}

#[tokio::test]
async fn the_printed_line_works_a_second_start_keeps_the_data_and_a_stop_leaves_nothing() {
    choose_tls_provider();
    let temporary = tempfile::Builder::new().prefix("apihub-up-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = temporary.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    let mut first = up(&dir);
    let told = report(&dir).await;
    let key = told.demo_key.clone();
    let words: Vec<&str> = told.demo_curl.split('\'').collect();
    let (header, url) = (words[1].split_once(": ").unwrap(), words[2].trim().to_owned());
    let client = reqwest::Client::new();
    let status = |url: String| {
        let request = client.get(url).header(header.0, header.1);
        async move { request.send().await.map(|answer| answer.status().as_u16()) }
    };
    assert_eq!(status(url.clone()).await.unwrap(), 200, "the printed line works");

    let second_user = up_refused(&dir).await;
    assert!(second_user.contains("another `apihub up` is using"), "{second_user}");

    send(&first, Signal::INT);
    assert!(ended(&mut first).await);
    assert!(status(url).await.is_err(), "nothing is left running");

    let mut again = up(&dir);
    let told = report(&dir).await;
    assert_eq!(told.demo_key, key, "a second start keeps the data");
    let url = told.demo_curl.split('\'').nth(2).unwrap().trim().to_owned();
    eventually("the demo answers", || async { (status(url.clone()).await.ok()? == 200).then_some(()) }).await;
    let postgres = std::fs::read_to_string(dir.join("postgres/data/postmaster.pid")).unwrap();
    let pid: i32 = postgres.lines().next().unwrap().parse().unwrap();
    send(&again, Signal::TERM);
    assert!(ended(&mut again).await);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "Postgres ended with it");
}

async fn up_refused(dir: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apihub"));
    command.arg("up").arg("--data-dir").arg(dir);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
