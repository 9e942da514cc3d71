use super::*;

fn edit(directory: u64, name: &str, inode: Option<u64>) -> Edit {
    Edit { directory, name: name.into(), inode }
}

fn op(number: u64, edits: Vec<Edit>, inodes: &[u64]) -> DirectoryOp {
    DirectoryOp { number, edits, inodes: inodes.to_vec(), creates: None, moves_directory: false }
}

fn journal(ops: Vec<DirectoryOp>) -> Journal {
    let mut journal = Journal::default();
    ops.into_iter().for_each(|op| journal.push(op));
    journal
}

fn survivors(seed: u64, order: DirectoryOrder, ops: Vec<DirectoryOp>) -> Vec<u64> {
    let (survivors, lost) = journal(ops.clone()).lose(order, &Fate::new(seed, 0));
    assert_eq!(survivors.len() as u64 + lost, ops.len() as u64);
    survivors.iter().map(|op| op.number).collect()
}

#[test]
fn unrelated_operations_survive_independently() {
    let ops = || vec![op(1, vec![edit(1, "a", Some(2))], &[2]), op(2, vec![edit(1, "b", Some(3))], &[3])];
    let seen: BTreeSet<_> = (0..100).map(|seed| survivors(seed, DirectoryOrder::Independent, ops())).collect();
    assert_eq!(seen, [vec![], vec![1], vec![2], vec![1, 2]].into());
    let seen: BTreeSet<_> = (0..100).map(|seed| survivors(seed, DirectoryOrder::Journaled, ops())).collect();
    assert_eq!(seen, [vec![], vec![1], vec![1, 2]].into());
}

#[test]
fn what_builds_upon_a_lost_operation_is_lost() {
    // mkdir d; create d/x; rename d/x y; create d/x anew; rmdir of another directory after emptying it
    let ops = || {
        vec![
            op(1, vec![edit(1, "d", Some(2))], &[2]),
            op(2, vec![edit(2, "x", Some(3))], &[3]),
            op(3, vec![edit(2, "x", None), edit(1, "y", Some(3))], &[3]),
            op(4, vec![edit(2, "x", Some(4))], &[4]),
            op(5, vec![edit(9, "z", None)], &[8]),
            op(6, vec![edit(1, "e", None)], &[9]),
        ]
    };
    let seen: BTreeSet<_> = (0..2000).map(|seed| survivors(seed, DirectoryOrder::Independent, ops())).collect();
    let chain: [&[u64]; 5] = [&[], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]];
    let other: [&[u64]; 3] = [&[], &[5], &[5, 6]];
    let expected: BTreeSet<Vec<u64>> = chain.iter().flat_map(|a| other.iter().map(|b| [*a, *b].concat())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_commit_takes_along_what_it_depends_on_and_leaves_the_rest() {
    let mut pending = journal(vec![
        op(1, vec![edit(1, "d", Some(2))], &[2]),
        op(2, vec![edit(1, "unrelated", Some(5))], &[5]),
        op(3, vec![edit(2, "x", Some(3))], &[3]),
        op(4, vec![edit(2, "z", Some(4))], &[4]),
    ]);
    let committed = pending.commit(DirectoryOrder::Independent, |op| op.inodes.contains(&3));
    assert_eq!(committed.iter().map(|op| op.number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(pending.numbers().collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_journaled_commit_takes_everything_before_it_along() {
    let mut pending = journal(vec![
        op(1, vec![edit(1, "a", Some(2))], &[2]),
        op(2, vec![edit(1, "b", Some(3))], &[3]),
        op(3, vec![edit(1, "c", Some(4))], &[4]),
    ]);
    let committed = pending.commit(DirectoryOrder::Journaled, |op| op.inodes.contains(&3));
    assert_eq!(committed.iter().map(|op| op.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(pending.len(), 1);
}
