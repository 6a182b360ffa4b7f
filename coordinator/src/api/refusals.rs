//! All that is wrong with the fields of a request: a refusal does not end the reading, so that a caller hears of everything at once.

use super::problem::Problem;

/// Fields that one answer names, at most.
pub const ERRORS_MAX: usize = 50;

/// The refusals of one request, in the order of their finding.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Problem>);

impl Refusals {
    /// What was read; where it is refused, a stand-in, with which the reading goes on.
    pub fn or_default<T: Default>(&mut self, read: Result<T, Problem>) -> T {
        self.keep(read).unwrap_or_default()
    }

    /// What was read, if it is not refused.
    pub fn keep<T>(&mut self, read: Result<T, Problem>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(problem) => {
                self.0.push(problem);
                None
            }
        }
    }

    /// Whether nothing is refused.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are as many as an answer names.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.0.len() >= ERRORS_MAX
    }

    /// Whether they name this field.
    #[must_use]
    pub fn name(&self, field: &str) -> bool {
        self.0.iter().flat_map(Problem::fields).any(|refused| refused == field)
    }

    /// Nothing was refused.
    ///
    /// # Errors
    /// The first refusal, which names the others under `errors`.
    pub fn finish(self) -> Result<(), Problem> {
        Problem::of_all(self.0).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::Code;

    #[test]
    fn a_refused_field_is_known_by_its_whole_place() {
        let mut refusals = Refusals::default();
        assert!(!refusals.name("env"));
        let of = |field: &str| Problem::new(Code::BadField, "wrong").at(field);
        refusals.keep::<()>(Err(of("env.X")));
        refusals.keep::<()>(Problem::of_all(vec![of("jitter"), of("jiter")]).map_or(Ok(()), |both| Err(both.within("retry"))));
        assert!(["env.X", "retry.jitter", "retry.jiter"].into_iter().all(|field| refusals.name(field)));
        assert!(["env", "env.Y", "retry"].into_iter().all(|field| !refusals.name(field)));
    }
}
