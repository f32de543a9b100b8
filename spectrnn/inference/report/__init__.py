"""The report that one looks at and listens to: one HTML file that needs nothing from outside, and asks for nothing."""
