"""The scripts that trained the zoo: `dqn.py`, `td3.py` and what both need, `common.py`."""
