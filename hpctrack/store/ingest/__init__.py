"""Pieces of journals into PostgreSQL."""
