//! A flaw of one value, as its sender should read it, and the faults of a whole body with the place of each. Refuses to
//! know HTTP.

/// What is wrong with a value and what to do about it; whoever knows the place adds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub reason: String,
    pub mend: Option<String>,
}

impl Flaw {
    pub fn new(reason: impl Into<String>) -> Flaw {
        Flaw { reason: reason.into(), mend: None }
    }

    pub fn mend(self, mend: impl Into<String>) -> Flaw {
        Flaw { mend: Some(mend.into()), ..self }
    }

    /// With its place: a JSON pointer such as `/rate_limit`.
    pub fn at(self, pointer: impl Into<String>) -> Fault {
        Fault { pointer: pointer.into(), reason: self.reason, mend: self.mend }
    }
}

/// A flaw with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub pointer: String,
    pub reason: String,
    pub mend: Option<String>,
}

/// Gathers the faults of one body, so that its sender learns all of them at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    /// The value, or `None` with its flaw noted.
    pub fn take<T>(&mut self, pointer: &str, parsed: Result<T, Flaw>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(flaw) => {
                self.add(pointer, flaw);
                None
            }
        }
    }

    /// Notes a flaw unless something holds.
    pub fn check(&mut self, pointer: &str, holds: bool, flaw: impl FnOnce() -> Flaw) {
        if !holds {
            self.add(pointer, flaw());
        }
    }

    /// The faults of a part become those of the whole.
    pub fn absorb<T>(&mut self, parsed: Result<T, Faults>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(faults) => {
                self.found.extend(faults.found);
                None
            }
        }
    }

    pub fn add(&mut self, pointer: &str, flaw: Flaw) {
        self.found.push(flaw.at(pointer));
    }

    /// The value when nothing was noted. `whole` is `None` only after a flaw.
    pub fn finish<T>(self, whole: Option<T>) -> Result<T, Faults> {
        match whole {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    pub fn into_vec(self) -> Vec<Fault> {
        self.found
    }
}
