//! Passwords: parameters as promised, common ones refused, no user as slow as a wrong password.

use settings::Secret;

use super::{COMMON, PASSWORD_CHARS_MIN, Passwords, check_new, verify_now};

#[tokio::test]
async fn a_hash_is_argon2id_with_the_promised_cost_and_verifies() {
    let passwords = Passwords::new().unwrap();
    let hash = passwords.hash(Secret::new("correct battery horse")).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert!(passwords.verify(Secret::new("correct battery horse"), Some(hash.clone())).await.unwrap());
    assert!(!passwords.verify(Secret::new("correct battery house"), Some(hash)).await.unwrap());
}

#[tokio::test]
async fn without_a_user_the_same_work_is_done_and_the_answer_is_no() {
    let passwords = Passwords::new().unwrap();
    // The dummy's own password opens nothing.
    assert!(verify_now("a password that nobody has", &passwords.dummy).unwrap());
    assert!(!passwords.verify(Secret::new("a password that nobody has"), None).await.unwrap());
    assert!(passwords.dummy.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
}

#[test]
fn short_long_common_and_guessable_passwords_are_refused_with_a_mend() {
    for bad in ["", "123456789", "Password123!", "QWERTYUIOP", "aaaaaaaaaaaa", "Ann@Example.com", &"x".repeat(1025)] {
        let flaw = check_new(bad, "ann@example.com").unwrap_err();
        assert!(flaw.mend.is_some(), "{bad}: {flaw:?}");
    }
    check_new("ten letters and more", "ann@example.com").unwrap();
    check_new("пароль из букв", "ann@example.com").unwrap();
}

#[test]
fn the_list_of_common_passwords_holds_only_what_it_can_match() {
    for common in COMMON.lines() {
        assert_eq!(common, common.to_lowercase());
        assert!(common.chars().count() >= PASSWORD_CHARS_MIN, "{common} is too short to be tried");
    }
}
