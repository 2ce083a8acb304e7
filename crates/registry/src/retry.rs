//! Trying again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use crate::error::{RegistryError, Trouble};
use crate::place::Place;
use crate::settings::Settings;

/// Why one try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It would fail again.
    Final(RegistryError),
    /// It may be better the next time.
    Again(Trouble),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Again(trouble)
    }
}

/// The tries of one call.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    settings: &'a Settings,
    failed: u32,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            failed: 0,
        }
    }

    /// Waits until it is time for the next try.
    ///
    /// # Errors
    /// When there is to be none.
    pub(crate) async fn again(
        &mut self,
        place: &Place,
        failure: Failure,
    ) -> Result<(), RegistryError> {
        let trouble = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(trouble) => trouble,
        };
        self.failed += 1;
        let asked = match &trouble {
            Trouble::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let too_long = asked.is_some_and(|time| time > self.settings.max_retry_after);
        if self.failed > self.settings.retries || too_long {
            return Err(RegistryError::Unavailable {
                reference: place.name.clone(),
                registry: place.registry().to_owned(),
                tries: self.failed,
                source: trouble,
            });
        }
        let delay = delay(self.settings, self.failed, random());
        // Jitter comes on top: who is told to rest all at once should not come back all at once.
        let delay = asked.map_or(delay, |time| time.max(delay));
        tracing::debug!(
            reference = %place.name,
            error = &trouble as &dyn std::error::Error,
            tries = self.failed,
            ?delay,
            "a registry is asked again"
        );
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// The wait after so many failed tries: doubled from one to the next, of which half is by chance (0 to 1).
fn delay(settings: &Settings, failed: u32, chance: f64) -> Duration {
    let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
    let most = settings
        .retry_delay
        .saturating_mul(factor)
        .min(settings.max_retry_delay);
    most.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// From 0 to 1. The standard library's hashers begin at random, which is enough for not all waiting equally long.
fn random() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn place() -> Place {
        Place::of(&"registry.example.com/a:1".parse().unwrap()).unwrap()
    }

    fn status(status: u16, retry_after: Option<u64>) -> Failure {
        Failure::Again(Trouble::Status {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            message: String::new(),
        })
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let settings = Settings::default();
        let waits = |chance| -> Vec<u128> {
            let wait = |failed| delay(&settings, failed, chance).as_millis();
            [1, 2, 3, 5, 6, 100].map(wait).into()
        };
        assert_eq!(waits(1.0), [500, 1000, 2000, 8000, 10000, 10000]);
        assert_eq!(waits(0.0), [250, 500, 1000, 4000, 5000, 5000]);
        assert!((0.0..=1.0).contains(&random()));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_are_bounded() {
        let settings = Settings::default();
        let mut tries = Tries::new(&settings);
        let began = Instant::now();
        for _ in 0..4 {
            tries.again(&place(), status(503, None)).await.unwrap();
        }
        let took = began.elapsed();
        let (least, most) = (Duration::from_millis(3750), Duration::from_millis(7600));
        assert!((least..most).contains(&took), "{took:?}");
        let error = tries.again(&place(), status(503, None)).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Unavailable { tries: 5, .. }),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_that_a_registry_wants_is_given_up_to_a_bound() {
        let settings = Settings::default();
        let mut tries = Tries::new(&settings);
        let began = Instant::now();
        tries.again(&place(), status(429, Some(60))).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(60));
        let began = Instant::now();
        let error = tries.again(&place(), status(429, Some(61))).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let error = error.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("429") && source.contains("61 s"),
            "{source}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_fail_again_is_not_tried_again() {
        let settings = Settings::default();
        let mut tries = Tries::new(&settings);
        let began = Instant::now();
        let error = RegistryError::Settings("no".to_owned());
        assert!(tries.again(&place(), error.into()).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
