"""The help screen of ``loop-pool top``, and the limits of its interval, in seconds."""

LEAST = 0.1
MOST = 3600.0

HELP = """\
Loops, since the reading before:
  busy         share of the time in which its thread was not waiting for events
  callbacks/s  callbacks run, per second
Loops, at this moment:
  state        ok; or how long it has been inside one callback; or not running
  lag          how long a callback from another thread waits for its turn
  ready        callbacks that wait for their turn
  timers       timers that are set
  fds          descriptors that it watches
  transports   open connections, pipes and listeners of its own
  thread       the kernel's number of its thread
  task         the task that it runs
Loops, since the pool began:
  stole        socket jobs and coroutines that it took from other loops
  stolen       those that others took from it
  handoffs     times that others did its socket work because it was stuck

Tasks of the selected loop, the oldest first: under each those that it awaits, if they are
of this loop; sorted by another column than the first: one by one. Below them, of the
selected task: who awaits it, and where it stands, the innermost frame last.

  up, down     select a loop, or a task         s, S   sort by the next, previous column
  tab          go to loops, tasks, stack        r      sort the other way round
  left, right  see what is beside               click  on a heading: sort by it
  + , -        read more, less often            p      pause, and go on
  q, Ctrl-C    leave                            ?      this help; any of ?, q, Esc closes it
"""
