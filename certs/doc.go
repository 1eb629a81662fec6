// Package certs holds what a gate presents and whom it trusts, always the
// newest good set.
package certs
