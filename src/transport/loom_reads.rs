//! Models of a read and its steps, checked over every interleaving. Run by `make test-loom`.

use super::{ReadPhase, ReadSteps, StepRefusal};
use crate::sync::{Arc, thread};

/// What a thread that goes on with a read comes to: which step it was, of which the second is the last.
fn go_on(read: &ReadSteps<usize>) -> Result<usize, StepRefusal> {
    read.begin().map(|mut step| {
        let number = step.with(|steps| {
            *steps += 1;
            *steps
        });
        if number == 1 {
            assert!(step.is_first());
            step.wait();
        }
        number
    })
}

/// Two threads are never in a step at once, and the later one sees what the earlier one has left.
#[test]
fn loom_steps_of_a_read_come_one_after_another() {
    loom::model(|| {
        let read = Arc::new(ReadSteps::<usize>::default());
        let other = {
            let read = Arc::clone(&read);
            thread::spawn(move || go_on(&read))
        };
        let results = [go_on(&read), other.join().unwrap()];
        match results {
            [Ok(1), Ok(2)] | [Ok(2), Ok(1)] => assert_eq!(read.phase(), ReadPhase::Over),
            [Ok(1), Err(StepRefusal::Running)] | [Err(StepRefusal::Running), Ok(1)] => {
                assert_eq!(read.phase(), ReadPhase::Waiting);
            }
            _ => panic!("{results:?}"),
        }
    });
}

/// A read that is over is over to everybody at all times.
#[test]
fn loom_nobody_goes_on_with_a_read_that_is_over() {
    loom::model(|| {
        let read = Arc::new(ReadSteps::<usize>::default());
        drop(read.begin());
        let others = [(); 2].map(|()| {
            let read = Arc::clone(&read);
            thread::spawn(move || read.begin().err())
        });
        assert_eq!(read.phase(), ReadPhase::Over);
        for other in others {
            assert_eq!(other.join().unwrap(), Some(StepRefusal::Over));
        }
    });
}
