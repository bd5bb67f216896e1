# SPDX-License-Identifier: Apache-2.0
"""What both kinds of HTTPS, the back end's and the terminals', do alike: connections and their limits, TLS, and its failures."""
