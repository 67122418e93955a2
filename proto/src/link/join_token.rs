//! The one line that lets somebody join: which coordinator it is, and a secret.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use domain::digest::Digest;

/// The beginning of every join token.
const PREFIX: &str = "lgj_";

/// The SHA-256 of a CA certificate, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        unhex(text).map(Self).ok_or(Invalid)
    }
}

/// 128 bits that only a holder of the token knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// The digest by which a coordinator knows the secret.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// The digits of the secret, which are sent to join.
    pub fn expose(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret of {}", self.digest().short())
    }
}

impl FromStr for Secret {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        unhex(text).map(Self).ok_or(Invalid)
    }
}

/// The text is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: expected {PREFIX} and 96 hexadecimal digits, as `lithogen token create` prints it; is it whole?"
)]
pub struct Invalid;

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system's random number generator fails")]
pub struct NoRandomness;

/// A permission to join a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The coordinator's CA. Nothing is sent to a server that does not show this CA.
    pub ca: Fingerprint,
    /// The secret that is shown to join.
    pub secret: Secret,
}

impl Secret {
    /// Draws a new secret from the system's random numbers.
    ///
    /// # Errors
    /// If there are none.
    pub fn draw() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for JoinToken {
    /// The token as it is handed over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}{}", self.ca, self.secret.expose())
    }
}

impl FromStr for JoinToken {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(Invalid)?;
        let (ca, secret) = digits.split_at_checked(64).ok_or(Invalid)?;
        Ok(Self { ca: ca.parse()?, secret: secret.parse()? })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_one_line_that_reads_back() {
        let token = JoinToken { ca: Fingerprint::of(b"a certificate"), secret: Secret::draw().unwrap() };
        let text = token.to_string();
        assert_eq!(text.len(), 4 + 96);
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
        assert!(!format!("{token:?}").contains(&token.secret.expose()), "logs must not tell the secret");
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(Secret::draw().unwrap(), Secret::draw().unwrap());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let whole = format!("lgj_{}", "0".repeat(96));
        assert!(whole.parse::<JoinToken>().is_ok());
        let cut = &whole[..99];
        for bad in ["", "lgj_", cut, &whole.replace("lgj", "xyz"), &format!("{cut}g"), &format!("{cut}A"), "lgj_ü"] {
            assert_eq!(bad.parse::<JoinToken>(), Err(Invalid), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_refused_or_the_token_that_it_says(
            text in "\\PC{0,110}|lgj_[0-9a-f]{96}|lgj_[0-9a-fA-Fg]{94,98}| lgj_[0-9a-f]{96}\n",
        ) {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text.trim());
            }
        }
    }
}
