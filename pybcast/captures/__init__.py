# SPDX-License-Identifier: Apache-2.0
"""Captures: packets of the network to datagrams, and key messages to pcapng and back."""
