//! The feed over TLS: only a control plane that the given authority vouches for is followed.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

/// An authority, as PEM, with a control plane that it signed.
async fn authority_and_plane() -> (String, ScriptedControlPlane) {
    let mut of_authority = CertificateParams::new(Vec::new()).unwrap();
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(of_authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let plane = ScriptedControlPlane::start_tls(&certificate.pem(), &key.serialize_pem()).await;
    (authority.pem(), plane)
}

#[tokio::test]
async fn a_control_plane_signed_by_the_given_authority_is_followed() {
    let (authority, mut plane) = authority_and_plane().await;
    let follower = Follower::trusting(&plane, tempfile::tempdir().unwrap(), Some(authority));
    let mut call = plane.next_call().await;
    assert_eq!(call.authorization.as_deref(), Some("Bearer feed-token"));
    call.play(full(token(1, 3), vec![vec![fleet(2)]])).await;
    follower.serves(token(1, 3)).await;
}

#[tokio::test]
async fn one_signed_by_another_never_sees_the_token() {
    let (_, mut plane) = authority_and_plane().await;
    let (another, _) = authority_and_plane().await;
    let follower = Follower::trusting(&plane, tempfile::tempdir().unwrap(), Some(another));
    eventually("the refusal is noticed", || follower.metrics.status.feed() == PartState::Down).await;
    assert!(plane.has_no_call());
    assert!(follower.metrics.status.served().is_none());
}
