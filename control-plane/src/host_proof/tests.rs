//! The proof is found where it stands, and nowhere else.

use tokio::net::TcpListener;

use super::*;

async fn serve_once(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    address
}

fn loopback_allowed() -> AddressPolicy {
    AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() }
}

#[tokio::test]
async fn a_host_that_shows_the_challenge_is_proved() {
    let address = serve_once("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabcdefghijklmnop\n").await;
    assert!(ask(&[address], "api.example.com", "abcdefghijklmnop", &loopback_allowed()).await.is_ok());
}

#[tokio::test]
async fn another_text_or_status_proves_nothing() {
    for answer in ["HTTP/1.1 200 OK\r\n\r\nsomething else", "HTTP/1.1 302 Found\r\n\r\nabcdefghijklmnop", "200"] {
        let address = serve_once(answer).await;
        let outcome = ask(&[address], "api.example.com", "abcdefghijklmnop", &loopback_allowed()).await;
        assert!(matches!(outcome, Err(ProofFault::WrongAnswer)), "{answer}");
    }
}

#[tokio::test]
async fn our_own_network_is_never_asked() {
    let outcome = ask(&["127.0.0.1:80".parse().unwrap()], "api.example.com", "x", &AddressPolicy::default()).await;
    assert!(matches!(outcome, Err(ProofFault::Forbidden(_))));
}
