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
	items []listed
	every []byte // the body for callers who may use all of them
}

// listed is what callers see of an agent.
type listed struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Model       string   `json:"model"`
	Tools       []string `json:"tools"`
}

type list struct {
	Agents []listed `json:"agents"`
}

// NewListing prepares the listing of f.
func NewListing(f *File) *Listing {
	l := &Listing{}
	for _, a := range f.Agents {
		l.items = append(l.items, listed{a.Name, a.Description, a.Model.String(), []string{}})
	}
	l.every, _ = api.Encode(list{l.items}) // strings always encode
	return l
}

// List serves GET /agents.
func (l *Listing) List(w http.ResponseWriter, _ *http.Request, caller auth.Caller) error {
	if caller.Agents == nil {
		return api.WriteEncoded(w, l.every)
	}
	usable := []listed{}
	for _, item := range l.items {
		if caller.MayUse(item.Name) {
			usable = append(usable, item)
		}
	}
	return api.WriteJSON(w, http.StatusOK, list{usable})
}

// Get serves GET /agents/{name}.
func (l *Listing) Get(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	name := r.PathValue("name")
	i := slices.IndexFunc(l.items, func(item listed) bool { return item.Name == name })
	if i < 0 || !caller.MayUse(name) {
		return errNoAgent
	}
	return api.WriteJSON(w, http.StatusOK, l.items[i])
}

var errNoAgent = api.Fail(api.NotFound, "There is no such agent for this credential: GET /agents lists those there are.")
