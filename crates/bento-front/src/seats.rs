//! Who is named in which descriptor, and how often.
//!
//! A client takes any of the introduction points in the descriptor that it has, each as likely as another. So a backend's part of the clients is
//! its part of the introduction points. What cannot be had in one descriptor (half an introduction point, a twenty-first one) is had over several:
//! each directory is given one of its own, and clients ask any of them.

use crate::{Backend, descriptor::INTRODUCTION_POINTS_MAX};

/// One introduction point in a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seat {
    /// Which backend's.
    pub backend: usize,
    /// Which of that backend's.
    pub point: usize,
}

/// Distributes introduction points over so many descriptors, by weight: a backend with twice another's weight is named twice as often. A weight of
/// zero is not named at all.
pub fn seats(backends: &[Backend], weights: &[u32], descriptors: usize) -> Vec<Vec<Seat>> {
    let points: Vec<usize> = backends.iter().map(Backend::introduction_points).collect();
    distribute(&points, weights, descriptors)
}

fn distribute(points: &[usize], weights: &[u32], descriptors: usize) -> Vec<Vec<Seat>> {
    let weight = |index: usize| match points[index] {
        0 => 0,
        _ => u64::from(weights.get(index).copied().unwrap_or_default()),
    };
    let named: Vec<usize> = (0..points.len()).filter(|index| weight(*index) > 0).collect();
    let total: u64 = named.iter().map(|index| weight(*index)).sum();
    // As many as leave everybody their part: one who is to have three quarters and has three introduction points allows four in all.
    let fitting = named.iter().map(|index| points[*index] as u64 * total / weight(*index)).min().unwrap_or_default();
    let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).min(INTRODUCTION_POINTS_MAX);

    // Smooth weighted round robin, which goes on from one descriptor to the next.
    let (mut credit, mut next) = (vec![0_i64; points.len()], vec![0; points.len()]);
    let mut all = Vec::new();
    for _ in 0..descriptors {
        let (mut seats, mut taken) = (Vec::new(), vec![0; points.len()]);
        while seats.len() < fitting {
            named.iter().for_each(|index| credit[*index] += weight(*index) as i64);
            // The first of equals, so that the same question has the same answer.
            let free = named.iter().copied().filter(|index| taken[*index] < points[*index]);
            let Some(chosen) = free.max_by_key(|index| (credit[*index], usize::MAX - index)) else { break };
            credit[chosen] -= total as i64;
            taken[chosen] += 1;
            seats.push(Seat { backend: chosen, point: next[chosen] });
            next[chosen] = (next[chosen] + 1) % points[chosen];
        }
        all.push(seats);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(all: &[Vec<Seat>], backends: usize) -> Vec<usize> {
        (0..backends).map(|index| all.iter().flatten().filter(|seat| seat.backend == index).count()).collect()
    }

    #[test]
    fn equals_are_named_equally_and_with_all_they_have() {
        let all = distribute(&[3, 3, 3, 3], &[1, 1, 1, 1], 8);
        assert!(all.iter().all(|seats| seats.len() == 12));
        assert_eq!(named(&all, 4), [24, 24, 24, 24]);
    }

    #[test]
    fn a_part_is_a_part_and_nothing_is_nothing() {
        let all = distribute(&[3, 3, 3], &[3, 1, 0], 8);
        assert_eq!(named(&all, 3), [24, 8, 0]);
        // Less than one in each descriptor: in some of them.
        let all = distribute(&[3, 3], &[9, 1], 8);
        let counts = named(&all, 2);
        assert!(counts[0] >= 8 * counts[1] && counts[1] >= 2, "{counts:?}");
        assert!(distribute(&[3, 3], &[0, 0], 2).iter().all(Vec::is_empty));
        assert!(distribute(&[0], &[5], 1)[0].is_empty());
        assert!(distribute(&[], &[], 1)[0].is_empty());
    }

    #[test]
    fn more_than_one_descriptor_holds_are_all_named() {
        let all = distribute(&[3; 30], &[1; 30], 8);
        assert!(all.iter().all(|seats| seats.len() == INTRODUCTION_POINTS_MAX));
        let counts = named(&all, 30);
        assert!(counts.iter().all(|count| (5..=6).contains(count)), "{counts:?}");
    }

    #[test]
    fn no_introduction_point_is_twice_in_one_descriptor() {
        for (points, weights) in [(vec![3, 1, 2], vec![1, 5, 2]), (vec![20, 20], vec![1, 1]), (vec![1; 50], (1..51).collect())] {
            for seats in distribute(&points, &weights, 16) {
                let mut seen = std::collections::HashSet::new();
                assert!(seats.iter().all(|seat| seen.insert((seat.backend, seat.point)) && seat.point < points[seat.backend]));
                assert!(seats.len() <= INTRODUCTION_POINTS_MAX);
            }
        }
    }
}
