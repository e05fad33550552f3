//! Who is named in which descriptor, and how often.
//!
//! A client takes any of the introduction points in the descriptor that it has, each as likely as another. So a backend's part of the clients is
//! its part of the introduction points. What cannot be had in one descriptor (half an introduction point, a twenty-first one) is had over several:
//! each directory is given one of its own, and clients ask any of them.
//!
//! No relay is in one descriptor twice. Once its circuit stands, C tor looks up by the relay's identity which introduction point it is for, and takes
//! the first of that relay (`find_desc_intro_point_by_legacy_id`): a backend all of whose relays others have as well would get no client at all.

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
    let relays: Vec<&[_]> = backends.iter().map(Backend::relays).collect();
    distribute(&relays, weights, descriptors)
}

fn distribute<R: PartialEq>(relays: &[&[R]], weights: &[u32], descriptors: usize) -> Vec<Vec<Seat>> {
    let weight = |index: usize| match relays[index] {
        [] => 0,
        _ => u64::from(weights.get(index).copied().unwrap_or_default()),
    };
    let named: Vec<usize> = (0..relays.len()).filter(|index| weight(*index) > 0).collect();
    let total: u64 = named.iter().map(|index| weight(*index)).sum();
    // As many as leave everybody their part: one who is to have three quarters and has three introduction points allows four in all.
    let fitting = named.iter().map(|index| relays[*index].len() as u64 * total / weight(*index)).min().unwrap_or_default();
    let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).min(INTRODUCTION_POINTS_MAX);
    // Those that fewer others have come first, so that the others find theirs free.
    let rivals = |chosen: usize, point: usize| {
        let relay = &relays[chosen][point];
        named.iter().filter(|index| **index != chosen && relays[**index].contains(relay)).count()
    };

    // Smooth weighted round robin, which goes on from one descriptor to the next.
    let (mut credit, mut next) = (vec![0_i64; relays.len()], vec![0; relays.len()]);
    let mut all = Vec::new();
    for _ in 0..descriptors {
        let mut seats: Vec<Seat> = Vec::new();
        while seats.len() < fitting {
            // The first of equals, so that the same question has the same answer.
            let due = |index: &usize| (credit[*index] + weight(*index) as i64, usize::MAX - index);
            let Some(chosen) = named.iter().copied().max_by_key(due) else { break };
            let is_free = |point: &usize| seats.iter().all(|seat| relays[seat.backend][seat.point] != relays[chosen][*point]);
            let count = relays[chosen].len();
            let order = |point: &usize| (rivals(chosen, *point), (point + count - next[chosen]) % count);
            // Whose turn it is finds none: a longer descriptor would name the others too often. It is the first in the next one.
            let Some(point) = (0..count).filter(is_free).min_by_key(order) else { break };
            named.iter().for_each(|index| credit[*index] += weight(*index) as i64);
            credit[chosen] -= total as i64;
            seats.push(Seat { backend: chosen, point });
            next[chosen] = (point + 1) % count;
        }
        all.push(seats);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Backends with so many introduction points, each at a relay of its own.
    fn apart(points: &[usize], weights: &[u32], descriptors: usize) -> Vec<Vec<Seat>> {
        let relays: Vec<Vec<(usize, usize)>> =
            points.iter().enumerate().map(|(backend, count)| (0..*count).map(|point| (backend, point)).collect()).collect();
        distribute(&relays.iter().map(Vec::as_slice).collect::<Vec<_>>(), weights, descriptors)
    }

    fn named(all: &[Vec<Seat>], backends: usize) -> Vec<usize> {
        (0..backends).map(|index| all.iter().flatten().filter(|seat| seat.backend == index).count()).collect()
    }

    #[test]
    fn equals_are_named_equally_and_with_all_they_have() {
        let all = apart(&[3, 3, 3, 3], &[1, 1, 1, 1], 8);
        assert!(all.iter().all(|seats| seats.len() == 12));
        assert_eq!(named(&all, 4), [24, 24, 24, 24]);
    }

    #[test]
    fn a_part_is_a_part_and_nothing_is_nothing() {
        let all = apart(&[3, 3, 3], &[3, 1, 0], 8);
        assert_eq!(named(&all, 3), [24, 8, 0]);
        // Less than one in each descriptor: in some of them.
        let all = apart(&[3, 3], &[9, 1], 8);
        let counts = named(&all, 2);
        assert!(counts[0] >= 8 * counts[1] && counts[1] >= 2, "{counts:?}");
        assert!(apart(&[3, 3], &[0, 0], 2).iter().all(Vec::is_empty));
        assert!(apart(&[0], &[5], 1)[0].is_empty());
        assert!(apart(&[], &[], 1)[0].is_empty());
    }

    #[test]
    fn more_than_one_descriptor_holds_are_all_named() {
        let all = apart(&[3; 30], &[1; 30], 8);
        assert!(all.iter().all(|seats| seats.len() == INTRODUCTION_POINTS_MAX));
        let counts = named(&all, 30);
        assert!(counts.iter().all(|count| (5..=6).contains(count)), "{counts:?}");
    }

    #[test]
    fn no_introduction_point_is_twice_in_one_descriptor() {
        for (points, weights) in [(vec![3, 1, 2], vec![1, 5, 2]), (vec![20, 20], vec![1, 1]), (vec![1; 50], (1..51).collect())] {
            for seats in apart(&points, &weights, 16) {
                let mut seen = std::collections::HashSet::new();
                assert!(seats.iter().all(|seat| seen.insert((seat.backend, seat.point)) && seat.point < points[seat.backend]));
                assert!(seats.len() <= INTRODUCTION_POINTS_MAX);
            }
        }
    }

    /// The part of all clients that each backend gets, where each client takes any descriptor and any relay in it.
    fn parts(all: &[Vec<Seat>], backends: usize) -> Vec<f64> {
        let part = |index| {
            let of = |seats: &Vec<Seat>| seats.iter().filter(|seat| seat.backend == index).count() as f64 / seats.len() as f64;
            all.iter().map(of).sum::<f64>() / all.len() as f64
        };
        (0..backends).map(part).collect()
    }

    #[test]
    fn backends_at_the_same_relays_have_their_parts_all_the_same() {
        // All at the same three, and a fourth one whose relays the others have as well.
        for relays in [[[1, 2, 3], [1, 2, 3], [1, 2, 3]], [[1, 2, 3], [4, 5, 6], [1, 4, 5]], [[1, 2, 3], [3, 4, 5], [5, 6, 1]]] {
            let relays: Vec<&[u8]> = relays.iter().map(<[u8; 3]>::as_slice).collect();
            for weights in [[1, 1, 1], [1, 2, 0], [1, 2, 3], [0, 0, 7]] {
                let all = distribute(&relays, &weights, 8);
                let total: u32 = weights.iter().sum();
                for (part, weight) in parts(&all, 3).into_iter().zip(weights) {
                    assert!((part - f64::from(weight) / f64::from(total)).abs() < 0.07, "{relays:?} {weights:?} {all:?}");
                }
                for seats in all {
                    let mut seen = std::collections::HashSet::new();
                    assert!(!seats.is_empty() && seats.iter().all(|seat| seen.insert(relays[seat.backend][seat.point])), "{seats:?}");
                }
            }
        }
    }
}
