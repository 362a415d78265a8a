"""The code that goes with a job: which files of a folder, packed so that equal ones are equal bytes, and unpacked."""
