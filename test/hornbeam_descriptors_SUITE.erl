%% SPDX-License-Identifier: Apache-2.0
%% How many connections there may be, as far as there are file descriptors.
-module(hornbeam_descriptors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([some_are_left/1]).
-export([limit_of_this_node/1]).

all() ->
    [some_are_left, limit_of_this_node].

%% One in eight, unless fewer connections are wanted.
some_are_left(_) ->
    [?assertEqual(Expected, hornbeam_descriptors:max_connections(Wanted, Limit))
     || {Wanted, Limit, Expected} <- [
            {16384, 1024, 896}, {infinity, 1024, 896}, {896, 1024, 896}, {895, 1024, 895},
            {16384, 65536, 16384}, {infinity, 7, 7}, {1, 1024, 1}, {infinity, 1, 1}]].

%% As the shell has it, whose child the node is.
limit_of_this_node(_) ->
    Limit = hornbeam_descriptors:limit(),
    Ports = erlang:system_info(port_limit),
    case string:trim(os:cmd("ulimit -S -n")) of
        "unlimited" -> ?assertEqual(Ports, Limit);
        Files -> ?assertEqual(min(Ports, list_to_integer(Files)), Limit)
    end.
