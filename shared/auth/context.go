package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"postern/shared/route"
)

// maxContext bounds the context's keys and values together, in bytes.
const maxContext = 4 << 10

// The keys of the authorizer's context. With principalId, the caller's id, they
// are the interface for somebody's own authorizer: strings all of them, lists as
// JSON arrays, and an absent key is an empty value.
const (
	keyKind         = "kind"
	keyName         = "name"
	keyScopes       = "scopes"
	keyAgents       = "agents"
	keyRateLimit    = "rate_limit"
	keyTokensPerDay = "tokens_per_day"
	keyExpiresAt    = "expires_at"
)

// ContextOf writes c as the authorizer hands it to the functions, for CallerOf to
// read. It refuses what API Gateway would not carry: more than 4 KB in all.
func ContextOf(c Caller) (map[string]any, error) {
	m := make(map[string]any, 4)
	size := 0
	put := func(key, value string) {
		m[key] = value
		size += len(key) + len(value)
	}
	put(keyKind, string(c.Kind))
	if c.Name != "" {
		put(keyName, c.Name)
	}
	if c.Scopes != nil {
		put(keyScopes, scopeList(c.Scopes))
	}
	if c.Agents != nil {
		list, _ := json.Marshal(c.Agents) // strings always marshal
		put(keyAgents, string(list))
	}
	if c.RateLimit != nil {
		put(keyRateLimit, strconv.Itoa(*c.RateLimit))
	}
	if c.TokensPerDay != nil {
		put(keyTokensPerDay, strconv.Itoa(*c.TokensPerDay))
	}
	if !c.ExpiresAt.IsZero() {
		put(keyExpiresAt, c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if size > maxContext {
		return nil, fmt.Errorf("the context of caller %s has %d bytes, at most %d are allowed", c.ID, size, maxContext)
	}
	return m, nil
}

// scopeList is scopes as JSON. They are our own words, so nothing in them wants
// escaping, and the authorizer's warm path spares the marshaller.
func scopeList(scopes []route.Scope) string {
	if len(scopes) == 0 {
		return "[]"
	}
	list := make([]byte, 0, 64)
	for _, s := range scopes {
		list = append(append(append(list, `,"`...), s...), '"')
	}
	list[0] = '['
	return string(append(list, ']'))
}

// CallerOf reads the authorizer's context. No principal, or a value that is not
// what ContextOf writes, is no caller: a context that can't be understood must
// not turn into a caller with fewer bounds than it was given.
func CallerOf(context map[string]any) (Caller, error) {
	id, _ := context["principalId"].(string)
	if id == "" {
		return Caller{}, NoCredential
	}
	r := contextReader{context: context}
	c := Caller{
		ID:           id,
		Kind:         Kind(r.text(keyKind)),
		Name:         r.text(keyName),
		RateLimit:    r.number(keyRateLimit),
		TokensPerDay: r.number(keyTokensPerDay),
		ExpiresAt:    r.time(keyExpiresAt),
	}
	for _, s := range r.list(keyScopes) {
		c.Scopes = append(c.Scopes, route.Scope(s))
	}
	c.Agents = r.list(keyAgents)
	if r.err != nil {
		return Caller{}, fmt.Errorf("authorizer context of %s: %w", id, r.err)
	}
	return c, nil
}

// contextReader reads typed values and keeps the first fault.
type contextReader struct {
	context map[string]any
	err     error
}

func (r *contextReader) text(key string) string {
	v, there := r.context[key]
	if !there || v == nil {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		r.fault(key, errors.New("is not a string"))
	}
	return s
}

func (r *contextReader) number(key string) *int {
	s := r.text(key)
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err == nil && n < 0 {
		err = errors.New("is negative")
	}
	r.fault(key, err)
	return &n
}

func (r *contextReader) time(key string) time.Time {
	s := r.text(key)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	r.fault(key, err)
	return t
}

func (r *contextReader) list(key string) []string {
	s := r.text(key)
	if s == "" {
		return nil
	}
	list := []string{}
	r.fault(key, json.Unmarshal([]byte(s), &list))
	if list == nil { // "null" names nothing, which is not the same as everything
		list = []string{}
	}
	return list
}

func (r *contextReader) fault(key string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", key, err)
	}
}
