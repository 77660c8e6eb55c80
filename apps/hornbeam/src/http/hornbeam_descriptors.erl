%% SPDX-License-Identifier: Apache-2.0

%% @private How many connections there may be at an address, as far as the node has file descriptors.
%%
%% Where connections take the last one, nothing else can be opened: no file that is sent, and no
%% worker in place of one that has died. So they leave some; who comes then waits in the system's
%% queue, as beyond `max_connections'.
-module(hornbeam_descriptors).

%% API
-export([limit/0]).
-export([max_connections/2]).

%% What connections leave: one in so many.
-define(LEFT, 8).

%% @doc Files and sockets that the node can have open: `ulimit -n', or the limit on ports.
-spec limit() -> pos_integer().
limit() ->
    Ports = erlang:system_info(port_limit),
    %% Not in the reference: a list of the properties of each poll set.
    Files = [Max || Properties <- erlang:system_info(check_io), is_list(Properties),
                    {max_fds, Max} <- Properties],
    lists:min([Ports | Files]).

%% @doc The number that is wanted, or as many as there are descriptors for.
-spec max_connections(Wanted :: pos_integer() | infinity, Limit :: pos_integer()) -> pos_integer().
max_connections(Wanted, Limit) ->
    %% `infinity' is above every number in Erlang's order of terms.
    min(Wanted, max(1, Limit - Limit div ?LEFT)).
