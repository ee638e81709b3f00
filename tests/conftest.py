"""What all tests share."""

import jax

# To leave its own frames out of a traceback, JAX asks the file system about each one: of all that
# the tests of errors take, two thirds.
jax.config.update("jax_traceback_filtering", "off")
