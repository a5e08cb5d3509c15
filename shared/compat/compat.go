// Package compat speaks the wire formats of others, one file each: elizaos,
// openai, txtai. A file translates and nothing more: the caller, its scopes and
// limits, the agents and their models are the same as on our own routes, and so
// is the error table, but for the shape in which OpenAI's clients want errors.
//
// Their clients send fields that we don't act on, so unknown fields are passed
// over here, and only here.
package compat
