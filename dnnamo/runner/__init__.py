"""The isolated process that holds the user's code: load, warm up, measure, report. Nobody else imports a model."""
