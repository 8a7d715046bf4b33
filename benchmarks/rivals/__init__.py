"""What a user would pick instead, one file for each: functions from a case and a task to a `Ready`.

A rival raises where it cannot do a case; the reason stands in the table.
"""
