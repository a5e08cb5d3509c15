package agents

import (
	"net/http"
	"slices"

	"postern/shared/api"
	"postern/shared/auth"
)

// Listing serves the routes that show agents: names, descriptions and models,
// never a prompt. A caller sees the agents that it may use; to it the others
// are like those that don't exist.
type Listing struct {
	items []Listed
	every []byte // the body for callers who may use all of them
}

// Listed is what callers see of an agent.
type Listed struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Model       string   `json:"model"`
	Tools       []string `json:"tools"`
}

type list struct {
	Agents []Listed `json:"agents"`
}

// NewListing prepares the listing of f.
func NewListing(f *File) *Listing {
	l := &Listing{}
	for _, a := range f.Agents {
		l.items = append(l.items, Listed{a.Name, a.Description, a.Model.String(), []string{}})
	}
	l.every, _ = api.Encode(list{l.items}) // strings always encode
	return l
}

// List serves GET /agents.
func (l *Listing) List(w http.ResponseWriter, _ *http.Request, caller auth.Caller) error {
	if caller.Agents == nil {
		return api.WriteEncoded(w, l.every)
	}
	return api.WriteJSON(w, http.StatusOK, list{l.For(caller)})
}

// Get serves GET /agents/{name}.
func (l *Listing) Get(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	item, found := l.Find(caller, r.PathValue("name"))
	if !found {
		return ErrNoAgent
	}
	return api.WriteJSON(w, http.StatusOK, item)
}

// For returns the agents that caller may use, in the file's order.
func (l *Listing) For(caller auth.Caller) []Listed {
	usable := []Listed{}
	for _, item := range l.items {
		if caller.MayUse(item.Name) {
			usable = append(usable, item)
		}
	}
	return usable
}

// Find returns the agent of that name, if caller may use it.
func (l *Listing) Find(caller auth.Caller, name string) (Listed, bool) {
	i := slices.IndexFunc(l.items, func(item Listed) bool { return item.Name == name })
	if i < 0 || !caller.MayUse(name) {
		return Listed{}, false
	}
	return l.items[i], true
}

// ErrNoAgent is the answer for an agent that there isn't, or that the caller may
// not use.
var ErrNoAgent = api.Fail(api.NotFound, "There is no such agent for this credential: GET /agents lists those there are.")
