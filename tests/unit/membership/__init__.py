"""Membership, part by part."""
