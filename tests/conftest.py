"""Tests press Ctrl-C. A suite that is started in the background has it ignored, and so would everything that it starts."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
