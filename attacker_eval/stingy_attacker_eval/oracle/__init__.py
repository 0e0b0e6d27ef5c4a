"""The endpoint as a black box: answers, sessions, transfer sets."""
