"""The one entry point: previews, trains, evaluates and reports.

  python experiments/run.py --flagfile=experiments/flagfiles/digits.cfg
  python experiments/run.py --stages=report --workdir=runs/digits

Exit codes: 0 done; 1 a defect of the program; 2 bad input (one line on standard error says what); 130 interrupted, 143 terminated
(the same command goes on).
"""

import sys

from ssljax.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
