//! What an account's values take and what they refuse.

use super::{Currency, Email, Role, Scope, TimeZoneName, slug_from_text, slug_with_suffix};
use crate::domain::text::Slug;

#[test]
fn email_addresses_are_trimmed_and_plain_nonsense_is_refused() {
    assert_eq!(Email::parse(" Ann@Example.com ").unwrap().as_str(), "Ann@Example.com");
    for bad in ["", "ann", "@x", "ann@", "a b@c", "a@b@c", "ann@ex\nample.com", &format!("{}@x.de", "a".repeat(300))] {
        assert!(Email::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_slug_is_made_of_what_a_person_typed() {
    let made = |text: &str| slug_from_text(text).map(|slug| slug.as_str().to_owned());
    assert_eq!(made("Ann.Müller+test").as_deref(), Some("ann-m-ller-test"));
    assert_eq!(made("--- a  b ---").as_deref(), Some("a-b"));
    assert_eq!(made("x".repeat(80).as_str()).map(|slug| slug.len()), Some(40));
    assert_eq!(made("admin"), None, "a reserved word");
    assert_eq!(made("李"), None);
}

#[test]
fn a_suffix_fits_even_a_long_slug() {
    let long = Slug::parse(&"x".repeat(40)).unwrap();
    assert_eq!(slug_with_suffix(&long, "12").unwrap().as_str().len(), 40);
    let ann = Slug::parse("ann").unwrap();
    assert_eq!(slug_with_suffix(&ann, "2").unwrap().as_str(), "ann-2");
}

#[test]
fn currencies_and_zones_have_their_forms() {
    assert!(Currency::parse("EUR").is_ok());
    assert!(["", "eur", "EURO", "€€€"].iter().all(|bad| Currency::parse(bad).is_err()));
    assert!(
        ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"]
            .iter()
            .all(|zone| TimeZoneName::parse(zone).is_ok())
    );
    assert!(["", "EST5EDT4", "../etc", "Europe/Ber lin", "+02:00"].iter().all(|bad| TimeZoneName::parse(bad).is_err()));
}

#[test]
fn roles_and_scopes_are_ordered_and_stored_by_name() {
    assert!(Role::Owner > Role::Admin && Role::Admin > Role::Developer && Role::Developer > Role::Viewer);
    assert!(Scope::Admin > Scope::Write && Scope::Write > Scope::Read);
    for role in [Role::Viewer, Role::Developer, Role::Admin, Role::Owner] {
        assert_eq!(Role::from_stored(role.as_str()), Some(role));
    }
    assert_eq!(Role::from_stored("god"), None);
}
