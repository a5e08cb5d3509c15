// Package route is the one table of what Postern answers.
//
// A route is data: a name, a method, a path, the scope a caller must hold and
// the Lambda that serves it. No function values live here, so everything that
// needs to know the outside of Postern can read the same rows: the frame in
// package api (matching, scopes, 405), each Lambda's main and the local server
// (which join rows to handlers by name), and the tests that compare the table
// with template.yaml in both directions.
//
// A path is written as net/http's ServeMux and API Gateway both read it:
// "/agents/{name}". A row's Method is exact; HEAD is served wherever GET is,
// and OPTIONS never reaches a row (package api answers preflights).
package route

// Scope is what a caller must hold to use a route.
type Scope string

const (
	// Public routes take no credential.
	Public Scope = "public"
	// Any is satisfied by every valid credential.
	Any Scope = "any"

	AgentsRead Scope = "agents:read"
	Chat       Scope = "chat"
	Admin      Scope = "admin"
)

// Function names the Lambda that serves a route; it is the folder's name under
// functions/.
type Function string

const (
	HealthFunction Function = "health"
	AgentsFunction Function = "agents"
	ChatFunction   Function = "chat"
	JobsFunction   Function = "jobs"
	KeysFunction   Function = "keys"
)

// Route is one row of the table.
type Route struct {
	Name     string // what mains join handlers by, and logs show: "agents.list"
	Method   string
	Path     string
	Scope    Scope
	Function Function
	Model    bool // runs a model: answers in the streaming form on Lambda
}

// Counted reports whether a request for r uses up its caller's hourly limit:
// all authenticated requests do, but administrative ones, so that a spent
// limit never locks its administrator out.
func (r Route) Counted() bool { return r.Scope != Public && r.Scope != Admin }

// Table returns every route, in the order people read them.
func Table() []Route {
	return []Route{
		{Name: "health", Method: "GET", Path: "/health", Scope: Public, Function: HealthFunction},
		{Name: "agents.list", Method: "GET", Path: "/agents", Scope: AgentsRead, Function: AgentsFunction},
		{Name: "agents.get", Method: "GET", Path: "/agents/{name}", Scope: AgentsRead, Function: AgentsFunction},
		{Name: "whoami", Method: "GET", Path: "/whoami", Scope: Any, Function: AgentsFunction},
		{Name: "chat", Method: "POST", Path: "/chat", Scope: Chat, Function: ChatFunction, Model: true},
		{Name: "sessions.get", Method: "GET", Path: "/sessions/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "sessions.delete", Method: "DELETE", Path: "/sessions/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "jobs.list", Method: "GET", Path: "/jobs", Scope: Chat, Function: JobsFunction},
		{Name: "jobs.get", Method: "GET", Path: "/jobs/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "jobs.delete", Method: "DELETE", Path: "/jobs/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "jobs.cancel", Method: "POST", Path: "/jobs/{id}/cancel", Scope: Chat, Function: JobsFunction},

		{Name: "keys.create", Method: "POST", Path: "/keys", Scope: Admin, Function: KeysFunction},
		{Name: "keys.list", Method: "GET", Path: "/keys", Scope: Admin, Function: KeysFunction},
		{Name: "keys.get", Method: "GET", Path: "/keys/{id}", Scope: Admin, Function: KeysFunction},
		{Name: "keys.update", Method: "PATCH", Path: "/keys/{id}", Scope: Admin, Function: KeysFunction},
		{Name: "keys.revoke", Method: "DELETE", Path: "/keys/{id}", Scope: Admin, Function: KeysFunction},
		{Name: "keys.rotate", Method: "POST", Path: "/keys/{id}/rotate", Scope: Admin, Function: KeysFunction},
		{Name: "audit.list", Method: "GET", Path: "/audit", Scope: Admin, Function: KeysFunction},
		{Name: "usage.list", Method: "GET", Path: "/usage", Scope: Admin, Function: KeysFunction},

		{Name: "openai.models", Method: "GET", Path: "/v1/models", Scope: AgentsRead, Function: AgentsFunction},
		{Name: "openai.model", Method: "GET", Path: "/v1/models/{name}", Scope: AgentsRead, Function: AgentsFunction},
		{Name: "openai.completions", Method: "POST", Path: "/v1/chat/completions", Scope: Chat, Function: ChatFunction, Model: true},
		{Name: "elizaos.agents", Method: "GET", Path: "/api/agents", Scope: AgentsRead, Function: AgentsFunction},
		{Name: "omnidev.ask", Method: "POST", Path: "/api/ask", Scope: Chat, Function: ChatFunction, Model: true},
		{Name: "omnidev.jobs", Method: "GET", Path: "/api/jobs", Scope: Chat, Function: JobsFunction},
		{Name: "omnidev.job", Method: "GET", Path: "/api/jobs/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "omnidev.delete", Method: "DELETE", Path: "/api/jobs/{id}", Scope: Chat, Function: JobsFunction},
		{Name: "txtai.workflow", Method: "POST", Path: "/workflow", Scope: Chat, Function: ChatFunction, Model: true},
	}
}

// Of returns the routes that the Lambda f serves.
func Of(f Function) []Route {
	var rows []Route
	for _, r := range Table() {
		if r.Function == f {
			rows = append(rows, r)
		}
	}
	return rows
}
