%% SPDX-License-Identifier: Apache-2.0

%% @private Root of the tree: services first, the servers that use them after.
%%
%% `one_for_one': the services' tables outlive their processes, so servers need not end with them;
%% and servers do not need them while they are being restarted.
-module(hornbeam_sup).

-behaviour(supervisor).

%% API
-export([start_link/0]).

%% supervisor
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    State = #{id => hornbeam_state, start => {hornbeam_state, start_link, []}},
    Servers = #{id => hornbeam_servers_sup, start => {hornbeam_servers_sup, start_link, []},
                type => supervisor, shutdown => infinity},
    Scopes = hornbeam_pubsub:scopes() ++ hornbeam_hook_registry:scopes(),
    Children = [State] ++ hornbeam_groups:child_specs(Scopes) ++ hornbeam_fanout:child_specs() ++
        hornbeam_hook_registry:child_specs() ++ [Servers],
    %% What makes one of them crash may make all of them crash, and then once more.
    {ok, {#{strategy => one_for_one, intensity => 2 * length(Children), period => 10}, Children}}.
