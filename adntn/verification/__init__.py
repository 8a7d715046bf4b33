"""The parts of `adntn.verify`: what is verified, the reference, the comparison, the result as table, JSON and page."""
