%% SPDX-License-Identifier: Apache-2.0
%% A small model checker: goes through all states that can come of a first one.
-module(hornbeam_test_explore).

-export([states/3]).

-export_type([verdict/0]).

-type verdict() :: ok | end_state | {wrong, Why :: term()}.
%% `end_state': it is fine that nothing follows.

-define(MAX_STATES, 200000).

%% @doc All states: `Next' gives those that follow, with what leads there, `Check' looks at each.
-spec states(State, fun((State) -> [{Step :: term(), State}]), fun((State) -> verdict())) ->
    {ok, Count :: pos_integer()} | {wrong, Why :: term(), Path :: [term()]}.
states(First, Next, Check) ->
    explore([{First, []}], #{First => true}, Next, Check).

explore([], Seen, _, _) ->
    {ok, map_size(Seen)};
explore(_, Seen, _, _) when map_size(Seen) > ?MAX_STATES ->
    {wrong, too_many_states, []};
explore([{State, Path} | Rest], Seen0, Next, Check) ->
    Following = Next(State),
    case {Check(State), Following} of
        {{wrong, Why}, _} ->
            {wrong, Why, lists:reverse(Path)};
        {ok, []} ->
            {wrong, {stuck, State}, lists:reverse(Path)};
        _ ->
            New = [{Step, Each} || {Step, Each} <- Following, not is_map_key(Each, Seen0)],
            Seen = lists:foldl(fun({_, Each}, Before) -> Before#{Each => true} end, Seen0, New),
            explore([{Each, [Step | Path]} || {Step, Each} <- New] ++ Rest, Seen, Next, Check)
    end.
