# SPDX-License-Identifier: Apache-2.0
"""Measures Hornbeam and its peers side by side; `make bench` runs it.

jobs       what is measured: an application, a load, figures
servers    how each server is started and ended
load       wrk, h2load, and clients of our own where those cannot
measure    CPU and memory of all processes of a server, from /proc
report     medians, tables, plots
"""
