//! Models of a read, its steps and its wait for what another thread feeds, checked over every interleaving. Run by
//! `make test-loom`.

use loom::sync::Notify;

use super::{
    BeforeWait, FeedOutcome, ReadPhase, ReadProgress, ReadSteps, ReadWait, ReaderState,
    StepRefusal, TakeOutcome, WaitOutcome, WaitPhase, Wanted,
};
use crate::sync::{Arc, Mutex, thread};

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

/// A reader, and the one read that may wait for it: what the reader's critical section protects.
#[derive(Default)]
struct Section {
    reader: ReaderState<Vec<u8>>,
    is_awaited: bool,
    wait: ReadWait<(), ()>,
}

struct Model {
    section: Mutex<Section>,
    /// The task's wakeup. What is slept through leaves it asleep for ever, which loom reports as a deadlock.
    task: Notify,
}

impl Model {
    fn new() -> Arc<Self> {
        let mut section = Section::default();
        section.reader.set_limit(1);
        Arc::new(Self { section: Mutex::new(section), task: Notify::new() })
    }

    /// As `reader::feed`.
    fn feed(&self, data: &[u8]) {
        let mut section = self.section.lock();
        let fed = section.reader.feed(data, || None);
        assert_eq!(fed, FeedOutcome::Fed { spent: None, pauses: false });
        self.wake(&mut section);
    }

    /// As `feed_eof`.
    fn end(&self) {
        let mut section = self.section.lock();
        section.reader.set_eof(true);
        self.wake(&mut section);
    }

    fn wake(&self, section: &mut Section) {
        if std::mem::take(&mut section.is_awaited)
            && let Ok(callbacks) = section.wait.settle(())
        {
            callbacks.into_iter().for_each(|()| self.task.notify());
        }
    }

    /// As a `StreamRead` and the task that awaits it.
    fn read(&self, wanted: Wanted) -> TakeOutcome<Vec<u8>, Vec<u8>> {
        let mut progress = ReadProgress::default();
        loop {
            let looked = self
                .section
                .lock()
                .reader
                .look(wanted, &mut progress, |bytes| Some(bytes.to_vec()));
            if looked.found != TakeOutcome::Wait {
                return looked.found;
            }
            let before = {
                let mut section = self.section.lock();
                let is_awaited = section.is_awaited;
                section.reader.before_wait(is_awaited)
            };
            assert_ne!(before, BeforeWait::Resume, "nobody has paused it");
            let outcome = {
                let mut section = self.section.lock();
                let outcome = section.reader.begin_wait(&progress, section.is_awaited);
                if outcome == WaitOutcome::Begins {
                    section.wait.begin();
                    section.is_awaited = true;
                }
                outcome
            };
            match outcome {
                WaitOutcome::LookAgain => {}
                WaitOutcome::Awaited => panic!("there is one read"),
                WaitOutcome::Begins => {
                    // The task comes with its wakeup when it has been yielded to.
                    let watched = self.section.lock().wait.watch(()).is_ok();
                    while watched && self.section.lock().wait.phase() == &WaitPhase::Pending {
                        self.task.wait();
                    }
                    let ended = self.section.lock().wait.end();
                    assert_eq!(ended.into_phase(), WaitPhase::Settled(()));
                    progress.wake();
                }
            }
        }
    }
}

/// Whatever comes between a look and the wait sends the read back to look.
#[test]
fn loom_what_is_fed_is_not_slept_through() {
    loom::model(|| {
        let model = Model::new();
        let feeding = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.feed(b"a");
                model.feed(b"b");
            })
        };
        assert_eq!(model.read(Wanted::Exactly(2)), TakeOutcome::Part(b"ab".to_vec()));
        feeding.join().unwrap();
    });
}

/// So does the end.
#[test]
fn loom_an_end_is_not_slept_through() {
    loom::model(|| {
        let model = Model::new();
        let ending = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.end())
        };
        assert_eq!(model.read(Wanted::AtMost(1)), TakeOutcome::Part(vec![]));
        ending.join().unwrap();
    });
}
