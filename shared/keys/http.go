package keys

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/secret"
	"postern/shared/table"
)

// Admin serves /keys. What it changes, it changes through the audit log: the
// intent is there before, and the outcome before the answer. A request that is
// refused for what it asks never gets that far.
//
// A change is written over the version that it was decided on. If somebody else
// was faster, or If-Match names another version, the answer is 409 and nothing
// is changed.
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

var errNoKey = api.Fail(api.NotFound, "There is no such key: GET /keys lists those there are.")

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
	if err := a.permit(r.Context(), caller, created, now); err != nil {
		return err
	}
	if err := a.act(w, r, caller, "keys.create", created); err != nil {
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
	err = each(len(body.Keys), func(i int) (err error) {
		body.Keys[i].Key = records[i].Key
		body.Keys[i].LastUsedAt, err = a.lastUsed(r.Context(), records[i].ID)
		return err
	})
	if err != nil {
		return err
	}
	return api.WriteJSON(w, http.StatusOK, body)
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
	if updated.Grant, err = body.onto(updated.Grant, now); err != nil {
		return err
	}
	updated.boundPrevious()
	if !body.onlyDisables() {
		if err := a.permit(r.Context(), caller, updated, now); err != nil {
			return err
		}
	}
	if err := a.act(w, r, caller, "keys.update", updated); err != nil {
		return err
	}
	return reply(w, http.StatusOK, updated, shown{LastUsedAt: lastUsed})
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
	if revoked.RevokedAt == nil {
		now := a.now()
		revoked.RevokedAt = &now
		if err := a.act(w, r, caller, "keys.revoke", revoked); err != nil {
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
	if err := a.permit(r.Context(), caller, rotated, now); err != nil {
		return err
	}
	token := renew(rotated.ID)
	rotated.rotate(secret.DigestOf(token.Reveal()), grace, now)
	if err := a.act(w, r, caller, "keys.rotate", rotated); err != nil {
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
		return nil, api.Fail(api.Conflict, "This key is revoked, for good: create another.")
	}
	return found, nil
}

// permit refuses a record that is not to be, or that caller may not give.
func (a *Admin) permit(ctx context.Context, caller auth.Caller, r *record, now time.Time) error {
	holder, err := r.caller()
	if err != nil {
		return err
	}
	if _, err := auth.ContextOf(holder); err != nil {
		return &api.Error{Code: api.InvalidRequest, Err: err,
			Detail: `The fields "name" and "agents" are too long together: the authorizer hands on 4 KB about a caller. Name fewer agents.`}
	}
	if !hasCeiling(caller) {
		return nil
	}
	own := grantOf(caller)
	if caller.Kind == auth.IssuedKey {
		if own, err = a.ownGrant(ctx, caller.ID, now); err != nil {
			return err
		}
	}
	return ceiling{own, a.DefaultRate}.admits(r.Grant)
}

// ownGrant is what the issued key id holds now. It is read, because a Lambda's
// caller doesn't say from where it may call; so an administrator who was just
// revoked gives nothing any more.
func (a *Admin) ownGrant(ctx context.Context, id string, now time.Time) (Grant, error) {
	if !isID(id) {
		return Grant{}, auth.Unknown
	}
	own, err := read(ctx, a.Table, id)
	switch {
	case errors.Is(err, table.ErrNotFound):
		return Grant{}, auth.Unknown
	case err != nil:
		return Grant{}, api.Because(api.Unavailable, err)
	}
	return own.Grant, own.state(now)
}

// act writes what an administrator decided, between its intent and its outcome
// in the audit log.
func (a *Admin) act(w http.ResponseWriter, r *http.Request, caller auth.Caller, action string, changed *record) error {
	event, err := a.Audit.Do(r.Context(), audit.Act{
		Actor:     caller.ID,
		Action:    action,
		Target:    changed.ID,
		RequestID: api.RequestID(w),
		IP:        api.ClientAddress(w),
	}, func(ctx context.Context) error {
		err := changed.write(ctx, a.Table)
		switch {
		case errors.Is(err, table.ErrConflict):
			return api.Because(api.Conflict, err)
		case err != nil:
			return api.Because(api.Unavailable, err)
		}
		return nil
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
	header := strings.Join(r.Header.Values("If-Match"), ",")
	if _, conditional := r.Header["If-Match"]; !conditional || strings.TrimSpace(header) == "*" {
		return nil
	}
	match := false
	for tag := range strings.SplitSeq(header, ",") {
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
