//! How shards are shared among lanes: which lane should own how many, and what it does about it.
//!
//! Every lane decides for itself from three numbers that one query gives to all, so nobody has to agree with anybody.

/// A lane's place among all lanes that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Lanes that share the shards, this one included; 0: this one has no share, because it is cut off from NATS and others are
    /// not.
    pub lanes: u32,
    /// Lanes that joined before this one.
    pub rank: u32,
    /// Shards that nobody owns, or whose lease has run out.
    pub vacant: u32,
}

/// What a lane does about its number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balance {
    /// It has its share, or must wait until another gives some away.
    Keep,
    /// It takes up to this many vacant shards.
    Take(u32),
    /// It gives this many away, between two batches.
    HandOver(u32),
}

/// How many of `shards` the lane should own: all shares differ by at most one, and the earlier lanes have the larger ones,
/// so that a lane that joins moves as few shards as possible.
#[must_use]
pub fn fair_share(shards: u32, standing: Standing) -> u32 {
    let lanes = standing.lanes;
    if lanes == 0 {
        return 0;
    }
    shards / lanes + u32::from(standing.rank < shards % lanes)
}

/// What a lane that owns `owned` of `shards` does now.
#[must_use]
pub fn balance(shards: u32, owned: u32, standing: Standing) -> Balance {
    let share = fair_share(shards, standing);
    if owned > share {
        Balance::HandOver(owned - share)
    } else if owned < share && standing.vacant > 0 {
        Balance::Take((share - owned).min(standing.vacant))
    } else {
        Balance::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_shares_of_all_lanes_are_all_shards_and_differ_by_at_most_one(shards in 1_u32..4_096, lanes in 1_u32..64) {
            let shares: Vec<u32> = (0..lanes).map(|rank| fair_share(shards, Standing { lanes, rank, vacant: 0 })).collect();
            prop_assert_eq!(shares.iter().sum::<u32>(), shards);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        /// From any distribution, lanes that act one after the other end with their shares and then keep still.
        #[test]
        fn lanes_that_act_in_turn_come_to_rest(shards in 1_u32..64, mut owned in prop::collection::vec(0_u32..16, 1..9)) {
            let lanes = u32::try_from(owned.len()).unwrap();
            let scale = owned.iter().sum::<u32>().max(1);
            owned.iter_mut().for_each(|count| *count = *count * shards / scale);
            let mut vacant = shards - owned.iter().sum::<u32>();
            for _ in 0..2 {
                for (rank, count) in (0..).zip(&mut owned) {
                    match balance(shards, *count, Standing { lanes, rank, vacant }) {
                        Balance::Keep => {}
                        Balance::Take(more) => (*count, vacant) = (*count + more, vacant - more),
                        Balance::HandOver(less) => (*count, vacant) = (*count - less, vacant + less),
                    }
                }
            }
            prop_assert_eq!(vacant, 0);
            for (rank, count) in (0..).zip(owned) {
                prop_assert_eq!(balance(shards, count, Standing { lanes, rank, vacant }), Balance::Keep);
            }
        }
    }

    #[test]
    fn a_lane_without_a_share_gives_everything_away() {
        assert_eq!(balance(16, 5, Standing { lanes: 0, rank: 0, vacant: 3 }), Balance::HandOver(5));
        assert_eq!(balance(16, 0, Standing { lanes: 0, rank: 0, vacant: 3 }), Balance::Keep);
    }

    #[test]
    fn a_lane_that_joins_moves_no_more_than_its_share() {
        let before: Vec<u32> = (0..2).map(|rank| fair_share(16, Standing { lanes: 2, rank, vacant: 0 })).collect();
        let after: Vec<u32> = (0..3).map(|rank| fair_share(16, Standing { lanes: 3, rank, vacant: 0 })).collect();
        assert_eq!((before, after), (vec![8, 8], vec![6, 5, 5]));
    }
}
