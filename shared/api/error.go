package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"postern/shared/auth"
)

// Code is what went wrong, as far as a caller is told. To add one: a constant
// here, its row in problems, and, if API Gateway can answer it too, its
// gateway response in template.yaml. Tests walk the whole table.
type Code int

const (
	Internal Code = iota // anything unforeseen; the zero value, so that forgetting says nothing
	Unauthenticated
	AddressDenied
	HostDenied
	ScopeMissing
	NotFound
	MethodNotAllowed
	MessageRequired
	InvalidRequest
	UnsupportedMediaType
	TooLarge
	Conflict
	RequestInProgress
	KeyReused
	RateLimited
	BudgetExceeded
	ModelFailed
	ModelRefused
	ModelUnavailable
	ModelTimeout
	AuthUnavailable
	Unavailable

	codes // how many there are
)

// problem is a row of the error table.
type problem struct {
	status int
	reason string // what the event line says of a denial; "": it is none
	title  string // the stable text to match on
	detail string // what to do, where nobody knows better
}

var problems = [codes]problem{
	Internal:             {500, "", "Internal error", "Try again; if it goes on, report the request_id."},
	Unauthenticated:      {401, "credential", "Invalid API key", "Send a valid token as 'Authorization: Bearer <token>' or 'X-API-Key: <token>'."},
	AddressDenied:        {403, "address", "Access denied from this IP address", "The operator allows certain addresses only."},
	HostDenied:           {403, "host", "Host not allowed", "Without authentication this server answers to localhost only: call it as http://localhost or http://127.0.0.1."},
	ScopeMissing:         {403, "scope", "Insufficient scope", "Use a credential that holds the scope of this route."},
	NotFound:             {404, "", "Not found", "Nothing answers here: check the path, the name and the id."},
	MethodNotAllowed:     {405, "", "Method not allowed", "Use one of the methods in the Allow header."},
	MessageRequired:      {400, "", "Message required", `Send {"message": "<text>"}: a string that is not blank.`},
	InvalidRequest:       {400, "", "Invalid request", "Send a JSON object with the fields of this route."},
	UnsupportedMediaType: {415, "", "Unsupported media type", "The body must be JSON: add -H 'Content-Type: application/json'."},
	TooLarge:             {413, "", "Request too large", "A body may have 1 MiB, its message 256 KiB."},
	Conflict:             {409, "", "Conflict", "Somebody changed it meanwhile: read it again, then decide anew."},
	RequestInProgress:    {409, "", "Request in progress", "The first request with this Idempotency-Key still runs: send it again after Retry-After."},
	KeyReused:            {422, "", "Idempotency key reused", "This Idempotency-Key came with another request before: choose a new one for each request."},
	RateLimited:          {429, "rate_limit", "Rate limit exceeded", "Wait as long as Retry-After says."},
	BudgetExceeded:       {429, "budget", "Token budget exceeded", "Wait as long as Retry-After says, or ask for less."},
	ModelFailed:          {502, "", "Model backend failed", "The language model answered with an error: try again later."},
	ModelRefused:         {502, "", "Model backend failed", "The language model refuses this request as it stands: change its text or its parameters. The same again is refused again."},
	ModelUnavailable:     {503, "", "Model backend unavailable", "The language model can't be reached or isn't configured: try again later."},
	ModelTimeout:         {504, "", "Model backend timed out", "The language model took too long: try again, or ask for less."},
	AuthUnavailable:      {503, "unavailable", "Authentication unavailable", "The credential can't be checked right now: try again."},
	Unavailable:          {503, "unavailable", "Service unavailable", "Something this needs can't be reached right now: try again."},
}

// elizaMessage is the sentence that ElizaOS' clients match on.
const elizaMessage = "Unauthorized: Invalid or missing X-API-KEY"

// retryUnavailable is the Retry-After of a 503 that knows no better moment.
const retryUnavailable = 5 * time.Second

// Error is an error with a public face. Everything else that a handler returns
// is Internal, its text seen by the log alone.
type Error struct {
	Code       Code
	Detail     string        // what to do; "": the code's own
	RetryAfter time.Duration // 0: none, or the code's own
	HangUp     bool          // end the connection, so that the next try costs a new one
	Err        error         // what happened, for the log; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", problems[e.Code].title, e.Err)
	}
	return problems[e.Code].title
}

func (e *Error) Unwrap() error { return e.Err }

// Fail makes an Error that tells the caller what to do.
func Fail(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Because makes an Error of code whose cause the log shall have.
func Because(code Code, err error) *Error { return &Error{Code: code, Err: err} }

// public finds the face of any error.
func public(err error) *Error {
	var e *Error
	var reason auth.Reason
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &reason):
		return Because(Unauthenticated, err)
	case errors.Is(err, auth.ErrAddress):
		return Because(AddressDenied, err)
	case errors.Is(err, auth.ErrUnavailable):
		return Because(AuthUnavailable, err)
	default:
		return Because(Internal, err)
	}
}

// CodeOf is what a caller would be told of err.
func CodeOf(err error) Code { return public(err).Code }

// clientClosed is what the event line says of a request whose caller left; no
// response is written (nginx's number for the same).
const clientClosed = 499

// gone reports whether err only says that the caller left, or stopped reading.
func gone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.As(err, new(unsent)))
}

// unsent is the error of a write to the caller.
type unsent struct{ error }

func (u unsent) Unwrap() error { return u.error }

func asUnsent(err error) error {
	if err == nil {
		return nil
	}
	return unsent{err}
}

// Problem is the body of every refusal and failure: RFC 9457's members, `error`
// for those who match on it, and `message` on 401 alone.
type Problem struct {
	Status    int    `json:"status"`
	Title     string `json:"title"`
	Error     string `json:"error"`
	Detail    string `json:"detail"`
	Message   string `json:"message,omitempty"`
	RequestID string `json:"request_id"`
}

// ProblemOf renders err as a body; the status is its Status.
func ProblemOf(err error, requestID string) Problem {
	e := public(err)
	row := problems[e.Code]
	p := Problem{Status: row.status, Title: row.title, Error: row.title, Detail: row.detail, RequestID: requestID}
	if e.Detail != "" {
		p.Detail = e.Detail
	}
	if e.Code == Unauthenticated {
		p.Message = elizaMessage
	}
	return p
}

// writeError sends err as a problem document.
func writeError(w http.ResponseWriter, err error, requestID string) {
	SetErrorHeaders(w.Header(), err)
	p := ProblemOf(err, requestID)
	writeJSON(w, p.Status, "application/problem+json", p)
}

// SetErrorHeaders sets the headers that err has in whatever shape it is sent.
func SetErrorHeaders(h http.Header, err error) {
	e := public(err)
	switch e.Code {
	case Unauthenticated:
		h.Set("WWW-Authenticate", `Bearer realm="postern"`)
	case ScopeMissing:
		h.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
	}
	if e.HangUp {
		h.Set("Connection", "close")
	}
	retry := e.RetryAfter
	if retry == 0 && problems[e.Code].status == http.StatusServiceUnavailable {
		retry = retryUnavailable
	}
	if retry > 0 {
		h.Set("Retry-After", seconds(retry))
	}
}
