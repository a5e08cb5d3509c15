package check

import (
	"net/http"
	"strings"
)

// The documented requests of others, as their clients send them.

func elizaOS() []Case {
	return []Case{
		{Name: "ElizaOS: the list of agents", Path: "/api/agents", Header: header("X-API-KEY", Token), Want: Want{Status: 200, JSON: map[string]any{
			"success": true, "data.agents.0.id": Any, "data.agents.0.name": Any, "data.agents.0.characterName": Any, "data.agents.0.bio": Any, "data.agents.0.status": "active"}}},
		{Name: "ElizaOS: a missing key", Path: "/api/agents", Want: refused()},
		{Name: "ElizaOS: a preflight is exempt", Method: "OPTIONS", Path: "/api/agents", Want: Want{Status: 204}},
	}
}

// omniDev is what there is to be said of questions that are never queued. The
// others are in the suite of a job.
func omniDev() []Case {
	ask := func(name, body string, want Want) Case {
		return Case{Name: "OmniDev: " + name, Method: "POST", Path: "/api/ask", Header: header("X-API-Key", Token, "Content-Type", "application/json"), Body: body, Want: want}
	}
	return []Case{
		ask("no workspace", `{"question":"How does this code work?"}`, invalid(`"workspaceId" takes a text`)),
		ask("a workspace of another type", `{"workspaceId":7,"question":"q"}`, invalid(`"workspaceId" takes a string`)),
		ask("no question", `{"workspaceId":"workspace-123"}`, Want{Status: 400, Error: "Message required", Detail: `"question"`}),
		ask("a blank question", `{"workspaceId":"workspace-123","question":" "}`, Want{Status: 400, Error: "Message required", Detail: `"question"`}),
		ask("a question of another type", `{"workspaceId":"workspace-123","question":{}}`, invalid(`"question" takes a string`)),
		ask("a context of another type", `{"workspaceId":"workspace-123","question":"q","context":[]}`, invalid(`"context" takes a string`)),
		ask("a callback of another type", `{"workspaceId":"workspace-123","question":"q","callback":"https://n8n.example.com/"}`, invalid(`"callback" takes an object`)),
		ask("a question above 256 KiB", `{"workspaceId":"workspace-123","question":"`+strings.Repeat("x", 256<<10+1)+`"}`, Want{Status: 413, Error: "Request too large"}),
		{Name: "OmniDev: a missing key", Method: "POST", Path: "/api/ask", Header: header("Content-Type", "application/json"), Body: `{"workspaceId":"w","question":"q"}`, Want: refused()},
		{Name: "OmniDev: a preflight is exempt", Method: "OPTIONS", Path: "/api/ask", Want: Want{Status: 204}},
		{Name: "OmniDev: the list of jobs", Path: "/api/jobs?status=processing,bogus&limit=501", Header: header("X-API-Key", Token), Want: Want{Status: 200,
			JSON: map[string]any{"jobs": Any, "meta.total": Any, "meta.returned": Any, "meta.statusFilter": "[processing]", "meta.limit": 500}}},
		{Name: "OmniDev: what is no status and no limit is passed over", Path: "/api/jobs?status=bogus&limit=ten&workspace=w", Header: bearer(), Want: Want{Status: 200,
			JSON: map[string]any{"jobs": Any, "meta.statusFilter": nil, "meta.limit": nil}}},
	}
}

func txtai() []Case {
	workflow := func(name, body string, want Want) Case {
		return Case{Name: name, Method: "POST", Path: "/workflow", Header: posted(), Body: body, Want: want}
	}
	return []Case{
		workflow("txtai: a list of results, in order", `{"name":"sumfrench","elements":["I need the first","I need the second"]}`,
			Want{Status: 200, JSON: map[string]any{"0": Any, "1": Any, "2": Absent}}),
		workflow("txtai: fields that we don't act on are passed over", `{"name":"sumfrench","elements":["hello"],"batch":1}`, Want{Status: 200, JSON: map[string]any{"0": Any}}),
		workflow("txtai: an unknown workflow", `{"name":"nobody","elements":["hello"]}`, Want{Status: 404, Error: "Not found"}),
		workflow("txtai: no elements", `{"name":"sumfrench","elements":[]}`, Want{Status: 400, Error: "Invalid request", Detail: `"elements"`}),
		workflow("txtai: elements of another type", `{"name":"sumfrench","elements":"hello"}`, Want{Status: 400, Error: "Invalid request", Detail: `"elements" takes an array`}),
		{Name: "txtai: a missing token", Method: "POST", Path: "/workflow", Header: header("Content-Type", "application/json"), Body: `{"name":"sumfrench","elements":["x"]}`, Want: refused()},
	}
}

func openAI() []Case {
	completion := func(name, body string, want Want) Case {
		return Case{Name: name, Method: "POST", Path: "/v1/chat/completions", Header: posted(), Body: body, Want: want}
	}
	fault := func(status int, kind, text string) Want {
		return Want{Status: status, Header: map[string]string{"Content-Type": "application/json"},
			JSON: map[string]any{"error.message": Any, "error.type": kind, "error.param": nil}, Body: text}
	}
	return []Case{
		{Name: "OpenAI: an agent is a model", Path: "/v1/models", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{
			"object": "list", "data.0.id": Any, "data.0.object": "model", "data.0.owned_by": "postern"}}},
		{Name: "OpenAI: one model", Path: "/v1/models/sumfrench", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{"id": "sumfrench", "object": "model"}}},
		{Name: "OpenAI: an unknown model", Path: "/v1/models/gpt-4", Header: bearer(), Want: fault(http.StatusNotFound, "invalid_request_error", "model_not_found")},
		completion("OpenAI: a completion", `{"model":"assistant","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"I need a plan"}],"user":"x"}`,
			Want{Status: 200, JSON: map[string]any{"object": "chat.completion", "model": "assistant", "choices.0.index": 0, "choices.0.message.role": "assistant",
				"choices.0.message.content": Any, "choices.0.finish_reason": "stop", "usage.total_tokens": Any, "id": Any, "created": Any}}),
		completion("OpenAI: content in parts", `{"model":"assistant","messages":[{"role":"user","content":[{"type":"text","text":"I need "},{"type":"text","text":"a plan"}]}]}`,
			Want{Status: 200, JSON: map[string]any{"choices.0.message.content": Any}}),
		completion("OpenAI: an unknown model answers nothing", `{"model":"gpt-4","messages":[{"role":"user","content":"hi"}]}`, fault(404, "invalid_request_error", "model_not_found")),
		completion("OpenAI: no messages", `{"model":"assistant"}`, fault(400, "invalid_request_error", "messages")),
		completion("OpenAI: a stream", `{"model":"assistant","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`,
			Want{Status: 200, Header: map[string]string{"Content-Type": "text/event-stream"}, Body: "}}\n\ndata: [DONE]\n\n"}),
		completion("OpenAI: a stream of an unknown model", `{"model":"gpt-4","stream":true,"messages":[{"role":"user","content":"hi"}]}`, fault(404, "invalid_request_error", "model_not_found")),
		completion("OpenAI: fewer tokens than none", `{"model":"assistant","max_tokens":-1,"messages":[{"role":"user","content":"hi"}]}`, fault(400, "invalid_request_error", "max_tokens")),
		completion("OpenAI: a temperature that there is not", `{"model":"assistant","temperature":3,"messages":[{"role":"user","content":"hi"}]}`, fault(400, "invalid_request_error", "temperature")),
		completion("OpenAI: a field of the wrong type", `{"model":"assistant","temperature":"hot","messages":[{"role":"user","content":"hi"}]}`, fault(400, "invalid_request_error", "takes a number, not a string")),
		completion("OpenAI: a picture can't be seen", `{"model":"assistant","messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, fault(400, "invalid_request_error", "text parts")),
		completion("OpenAI: a role that there is not", `{"model":"assistant","messages":[{"role":"tool","content":"hi"}]}`, fault(400, "invalid_request_error", "role")),
		{Name: "OpenAI: a wrong key is refused before the handler", Method: "POST", Path: "/v1/chat/completions", Header: header("Authorization", "Bearer sk-wrong"), Want: refused()},
	}
}
