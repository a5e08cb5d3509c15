package compat

import (
	"net/http"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
)

// elizaOSAgents serves GET /api/agents as ElizaOS' server does
// (docs.elizaos.ai, "List all agents"). An agent's name is its id: it is unique,
// and what other requests ask for it by.
func elizaOSAgents(listing *agents.Listing) api.Handler {
	type agent struct {
		ID            string `json:"id"`
		Name          string `json:"name"`
		CharacterName string `json:"characterName"`
		Bio           string `json:"bio"`
		Status        string `json:"status"`
	}
	type data struct {
		Agents []agent `json:"agents"`
	}
	return func(w http.ResponseWriter, _ *http.Request, caller auth.Caller) error {
		list := data{[]agent{}}
		for _, a := range listing.For(caller) {
			list.Agents = append(list.Agents, agent{a.Name, a.Name, a.Name, a.Description, "active"})
		}
		return api.WriteJSON(w, http.StatusOK, struct {
			Success bool `json:"success"`
			Data    data `json:"data"`
		}{true, list})
	}
}
