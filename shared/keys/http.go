package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
	"postern/shared/table"
)

// Admin serves /keys. What it changes, it changes through the audit log: the
// intent is there before, and the outcome before the answer. A request that is
// refused for what it asks never gets that far.
//
// A change is written over the version that it was decided on. If somebody else
// was faster, or If-Match names another version, the answer is 409 and nothing
// is changed. Only who takes a key away, by DELETE or a PATCH that does nothing but
// disable, without If-Match, wins over whatever others do at the same time.
type Admin struct {
	Table table.Table
	Audit *audit.Log

	// DefaultRate is the hourly limit of keys without their own; 0: none.
	DefaultRate int
	// LastUsed says when a key was last used; the zero time: never.
	LastUsed func(ctx context.Context, id string) (time.Time, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Handlers are a's, by the names of their routes.
func (a *Admin) Handlers() map[string]api.Handler {
	return map[string]api.Handler{
		"keys.create": a.Create,
		"keys.list":   a.List,
		"keys.get":    a.Get,
		"keys.update": a.Update,
		"keys.revoke": a.Revoke,
		"keys.rotate": a.Rotate,
	}
}

// shown is a key as replies have it.
type shown struct {
	Key
	LastUsedAt *time.Time `json:"last_used_at"`  // nil: never; no part of the record's version
	Token      string     `json:"key,omitempty"` // when it is new, and never again
}

var (
	errNoKey   = api.Fail(api.NotFound, "There is no such key: GET /keys lists those there are.")
	errRevoked = api.Fail(api.Conflict, "This key is revoked, for good: create another.")
)

// Create serves POST /keys.
func (a *Admin) Create(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	body, err := api.Decode[creation](r)
	if err != nil {
		return err
	}
	now := a.now()
	grant, err := body.grant(now)
	if err != nil {
		return err
	}
	id, token := New()
	created := &record{
		Key:     Key{ID: id, Grant: grant, CreatedAt: now, CreatedBy: caller.ID},
		current: secret.DigestOf(token.Reveal()),
	}
	own, err := a.ceilingOf(w, r, caller, now)
	if err != nil {
		return err
	}
	if err := cmp.Or(fits(created), own.admits(grant)); err != nil {
		return err
	}
	if err := a.act(w, r, caller, "keys.create", created, nil); err != nil {
		return err
	}
	w.Header().Set("Location", "/keys/"+id)
	return reply(w, http.StatusCreated, created, shown{Token: token.Reveal()})
}

// List serves GET /keys?limit&after.
func (a *Admin) List(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
	limit, after, err := page(r)
	if err != nil {
		return err
	}
	records, err := list(r.Context(), a.Table, after, limit+1) // one more tells whether there are more
	if err != nil {
		return api.Because(api.Unavailable, err)
	}
	body := struct {
		Keys []shown `json:"keys"`
		Next *string `json:"next"` // null: there are no more
	}{Keys: make([]shown, min(limit, len(records)))}
	if len(records) > limit {
		body.Next = &records[limit-1].ID
	}
	err = table.Each(len(body.Keys), func(i int) (err error) {
		body.Keys[i].Key = records[i].Key
		body.Keys[i].LastUsedAt, err = a.lastUsed(r.Context(), records[i].ID)
		return err
	})
	if err != nil {
		return err
	}
	n, err := fitting(body.Keys)
	if err != nil {
		return err
	}
	if n < len(body.Keys) {
		body.Keys, body.Next = body.Keys[:n], &body.Keys[n-1].ID
	}
	return api.WriteJSON(w, http.StatusOK, body)
}

// maxListed is how large the records of a page may be together: Lambda answers at
// most 6 MB, in which the body is a JSON string.
const maxListed = 4 << 20

// fitting is how many records from the first on make a page, one at least.
func fitting(records []shown) (int, error) {
	size := 0
	for i, k := range records {
		text, err := api.Encode(k)
		if err != nil {
			return 0, err
		}
		quoted, err := json.Marshal(string(text))
		if err != nil {
			return 0, err
		}
		if size += len(quoted); size > maxListed && i > 0 {
			return i, nil
		}
	}
	return len(records), nil
}

// Get serves GET /keys/{id}.
func (a *Admin) Get(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
	found, err := a.find(r)
	if err != nil {
		return err
	}
	lastUsed, err := a.lastUsed(r.Context(), found.ID)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, found, shown{LastUsedAt: lastUsed})
}

// Update serves PATCH /keys/{id}.
func (a *Admin) Update(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	body, err := api.Decode[change](r)
	if err != nil {
		return err
	}
	if body.isEmpty() {
		return api.Fail(api.InvalidRequest, "Nothing is to be changed: send at least one field.")
	}
	updated, err := a.findToChange(r)
	if err != nil {
		return err
	}
	lastUsed, err := a.lastUsed(r.Context(), updated.ID)
	if err != nil {
		return err
	}
	now := a.now()
	own, err := a.ceilingOf(w, r, caller, now)
	if err != nil {
		return err
	}
	before := updated.Grant
	if updated.Grant, err = body.onto(updated.Grant, now); err != nil {
		return err
	}
	updated.boundOlder()
	again := disable
	if !body.onlyDisables() {
		again = nil
		if err := cmp.Or(own.admits(before), fits(updated), own.admits(updated.Grant)); err != nil {
			return err
		}
	}
	if err := a.act(w, r, caller, "keys.update", updated, again); err != nil {
		return err
	}
	return reply(w, http.StatusOK, updated, shown{LastUsedAt: lastUsed})
}

// disable disables what can be changed.
func disable(r *record) error {
	if r.RevokedAt != nil {
		return errRevoked
	}
	r.Disabled = true
	return nil
}

// Revoke serves DELETE /keys/{id}. What is revoked already stays as it is.
func (a *Admin) Revoke(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	revoked, err := a.find(r)
	if err != nil {
		return err
	}
	if err := ifMatch(r, revoked); err != nil {
		return err
	}
	now := a.now()
	if _, err := a.ceilingOf(w, r, caller, now); err != nil {
		return err
	}
	revoke := func(r *record) error {
		if r.RevokedAt == nil {
			r.RevokedAt = &now
		}
		return nil
	}
	if revoked.RevokedAt == nil {
		revoke(revoked)
		if err := a.act(w, r, caller, "keys.revoke", revoked, revoke); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Rotate serves POST /keys/{id}/rotate. Without a body, or without a grace in it,
// the old token is valid for another 24 hours.
func (a *Admin) Rotate(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	var body rotation
	if r.ContentLength != 0 {
		var err error
		if body, err = api.Decode[rotation](r); err != nil {
			return err
		}
	}
	grace, err := body.grace()
	if err != nil {
		return err
	}
	rotated, err := a.findToChange(r)
	if err != nil {
		return err
	}
	lastUsed, err := a.lastUsed(r.Context(), rotated.ID)
	if err != nil {
		return err
	}
	now := a.now()
	own, err := a.ceilingOf(w, r, caller, now)
	if err != nil {
		return err
	}
	if err := own.admits(rotated.Grant); err != nil {
		return err
	}
	if rotated.hasExpired(now) {
		return api.Fail(api.Conflict, `This key has expired, and so would a new token of it: give it another "expires_at" first.`)
	}
	token := renew(rotated.ID)
	if err := rotated.rotate(secret.DigestOf(token.Reveal()), grace, now); err != nil {
		return err
	}
	if err := a.act(w, r, caller, "keys.rotate", rotated, nil); err != nil {
		return err
	}
	return reply(w, http.StatusOK, rotated, shown{LastUsedAt: lastUsed, Token: token.Reveal()})
}

// find returns the record that r's path names.
func (a *Admin) find(r *http.Request) (*record, error) {
	id := r.PathValue("id")
	if !isID(id) {
		return nil, errNoKey
	}
	found, err := read(r.Context(), a.Table, id)
	switch {
	case errors.Is(err, table.ErrNotFound):
		return nil, errNoKey
	case err != nil:
		return nil, api.Because(api.Unavailable, err)
	}
	return found, nil
}

// findToChange is find for what is to be changed, if it is the version that r
// wants and can be changed at all.
func (a *Admin) findToChange(r *http.Request) (*record, error) {
	found, err := a.find(r)
	if err != nil {
		return nil, err
	}
	if err := ifMatch(r, found); err != nil {
		return nil, err
	}
	if found.RevokedAt != nil {
		return nil, errRevoked
	}
	return found, nil
}

// fits refuses a record that is not to be.
func fits(r *record) error {
	holder, err := r.caller()
	if err != nil {
		return err
	}
	if _, err := auth.ContextOf(holder); err != nil {
		return &api.Error{Code: api.InvalidRequest, Err: err,
			Detail: `The fields "name" and "agents" are too long together: the authorizer hands on 4 KB about a caller. Name fewer agents.`}
	}
	return nil
}

// ceilingOf is what caller may give now; nil: everything. A change asks for it
// after it has read the record, so that a rotation of the caller's own key in
// between is a conflict.
func (a *Admin) ceilingOf(w http.ResponseWriter, r *http.Request, caller auth.Caller, now time.Time) (*ceiling, error) {
	own := grantOf(caller)
	switch caller.Kind {
	case auth.Root, auth.AdminKey:
		return nil, nil
	case auth.IssuedKey:
		var err error
		if own, err = a.ownGrant(w, r, caller.ID, now); err != nil {
			return nil, err
		}
	}
	return &ceiling{own, a.DefaultRate}, nil
}

// ownGrant is what the issued key id holds now, if r's credential is a token of it
// now. That is read, because a Lambda's caller doesn't say from where it may call,
// and because a verifier's cache lets in for some seconds who was just revoked, or
// has a token that was just rotated away, or calls from where its key may no longer
// be used: such an administrator does nothing any more.
func (a *Admin) ownGrant(w http.ResponseWriter, r *http.Request, id string, now time.Time) (Grant, error) {
	token, err := auth.Credential(r.Header["Authorization"], r.Header["X-Api-Key"])
	if err != nil || !isID(id) {
		return Grant{}, auth.Unknown
	}
	own, err := read(r.Context(), a.Table, id)
	switch {
	case errors.Is(err, table.ErrNotFound):
		return Grant{}, auth.Unknown
	case err != nil:
		return Grant{}, api.Because(api.Unavailable, err)
	case !own.accepts(secret.DigestOf(token), now):
		return Grant{}, auth.Unknown
	case !slices.Contains(own.Scopes, route.Admin):
		return Grant{}, api.Fail(api.ScopeMissing, "This needs a credential with the scope %q.", route.Admin)
	}
	if err := own.State(now); err != nil {
		return Grant{}, err
	}
	holder, err := own.caller()
	if err == nil && !holder.Addresses.Contain(api.ClientAddress(w)) {
		err = auth.ErrAddress
	}
	return own.Grant, err
}

// actTimeout bounds an act with both of its events.
const actTimeout = 15 * time.Second

// act writes what an administrator decided, between its intent and its outcome
// in the audit log. again is of a change that takes away, see writeAnyway.
func (a *Admin) act(w http.ResponseWriter, r *http.Request, caller auth.Caller, action string, changed *record, again func(*record) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actTimeout) // whoever leaves, the outcome is known
	defer cancel()
	event, err := a.Audit.Do(ctx, audit.Act{
		Actor:     caller.ID,
		Action:    action,
		Target:    changed.ID,
		RequestID: api.RequestID(w),
		IP:        api.AddressText(api.ClientAddress(w)),
	}, func(ctx context.Context) error {
		var err error
		if again == nil || isConditional(r) {
			err = changed.write(ctx, a.Table)
		} else {
			err = changed.writeAnyway(ctx, a.Table, again)
		}
		switch {
		case errors.Is(err, table.ErrConflict):
			return api.Because(api.Conflict, err)
		case err == nil, err == errRevoked:
			return err
		}
		return api.Because(api.Unavailable, err)
	})
	if event.Seq > 0 {
		api.Annotate(w, slog.Int64("audit_seq", event.Seq), slog.String("audit_hash", event.Hash))
	}
	return err
}

// lastUsed is when a key was last used, nil if never.
func (a *Admin) lastUsed(ctx context.Context, id string) (*time.Time, error) {
	t, err := a.LastUsed(ctx, id)
	switch {
	case err != nil:
		return nil, api.Because(api.Unavailable, err)
	case t.IsZero():
		return nil, nil
	}
	t = t.UTC()
	return &t, nil
}

// now is the time as records have it.
func (a *Admin) now() time.Time {
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	return now().UTC().Truncate(time.Millisecond)
}

// reply shows a record and its version.
func reply(w http.ResponseWriter, status int, r *record, body shown) error {
	body.Key = r.Key
	w.Header().Set("ETag", r.tag())
	return api.WriteJSON(w, status, body)
}

// tag is the ETag of r.
func (r *record) tag() string { return `"` + strconv.FormatInt(r.version, 10) + `"` }

// ifMatch refuses a request that is about another version of found: "*", or
// entity tags of which one must be the record's (RFC 9110, section 13.1.1). A
// weak one never is. A precondition that can't be read is no absent one.
func ifMatch(r *http.Request, found *record) error {
	if !isConditional(r) {
		return nil
	}
	match := false
	for tag := range strings.SplitSeq(strings.Join(r.Header["If-Match"], ","), ",") {
		tag = strings.Trim(tag, " \t")
		opaque, quoted := strings.CutPrefix(strings.TrimPrefix(tag, "W/"), `"`)
		opaque, closed := strings.CutSuffix(opaque, `"`)
		if !quoted || !closed || strings.Contains(opaque, `"`) {
			return api.Fail(api.InvalidRequest, `The header If-Match takes * or the ETag of a reply, like %s.`, found.tag())
		}
		match = match || tag == found.tag()
	}
	if !match {
		return &api.Error{Code: api.Conflict}
	}
	return nil
}

// isConditional reports whether r is about certain versions of a record.
func isConditional(r *http.Request) bool {
	values, given := r.Header["If-Match"]
	return given && strings.TrimSpace(strings.Join(values, ",")) != "*"
}

// Pages of a list, in keys.
const (
	defaultPage = 100
	maxPage     = 1000
)

// page reads the parameters of a list.
func page(r *http.Request) (limit int, after string, err error) {
	q := api.Query(r, "limit", "after")
	limit, after = q.Int("limit", defaultPage, 1, maxPage), q.Text("after")
	if err := q.Err(); err != nil {
		return 0, "", err
	}
	if after != "" && !isID(after) {
		return 0, "", api.Fail(api.InvalidRequest, `The query parameter "after" takes the "next" of the page before.`)
	}
	return limit, after, nil
}
