%% SPDX-License-Identifier: Apache-2.0
%% When the process that takes a worker's packets goes before others. That a flood is found out is
%% seen in hornbeam_hostile_SUITE.
-module(hornbeam_intake_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).
-export([while_packets_wait/1]).
-export([not_for_a_few/1]).
-export([not_for_small_ones/1]).
-export([not_for_ever/1]).

-define(LARGE, 16384).

all() ->
    [while_packets_wait, not_for_a_few, not_for_small_ones, not_for_ever].

init_per_testcase(_, Config) ->
    Port = open_port({spawn_executable, os:find_executable("cat")}, [{packet, 4}, binary]),
    [{port, Port}, {intake, hornbeam_intake:new(Port)} | Config].

end_per_testcase(_, Config) ->
    catch port_close(proplists:get_value(port, Config)),
    ok.

%% From the first one behind which others wait to the last one; small ones count then as well.
while_packets_wait(Config) ->
    Priorities = in_process(5, [?LARGE, 1, ?LARGE, 1, 1, 1], Config),
    ?assertEqual([high, high, high, high, high, normal], Priorities).

not_for_a_few(Config) ->
    ?assertEqual([normal, normal, normal, normal],
                 in_process(3, lists:duplicate(4, ?LARGE), Config)).

%% Each is the answers to some requests: to look would take longer than they do.
not_for_small_ones(Config) ->
    ?assertEqual([normal, normal], in_process(50, [?LARGE - 1, ?LARGE - 1], Config)).

%% One that never ceases: and when it has, it may again.
not_for_ever(Config) ->
    Before = in_process(1000, lists:duplicate(1000, ?LARGE), Config),
    ?assertEqual(129, length([high || high <- Before])),
    ?assertEqual(lists:duplicate(129, high), lists:sublist(Before, 129)),
    Sizes = lists:duplicate(201, ?LARGE) ++ lists:duplicate(6, ?LARGE),
    {First, Then} = lists:split(201, in_process([200, 5], Sizes, Config)),
    ?assertEqual(129, length([high || high <- First])),
    ?assertEqual([high, high, high, high, high, normal], Then).

%% The priority in which packets of such sizes are looked at, by a process that has so many messages
%% when the first one comes; where that are several, as many again each time that none is left.
in_process(Counts, Sizes, Config) when is_list(Counts) ->
    Intake = proplists:get_value(intake, Config),
    Test = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = process_flag(priority, normal),
        Test ! {self(), priorities(Sizes, fill(Counts), Intake)}
    end),
    receive
        {Pid, Priorities} -> true = demonitor(Monitor, [flush]), Priorities;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end;
in_process(Count, Sizes, Config) ->
    in_process([Count], Sizes, Config).

priorities([], _, _) ->
    [];
priorities([Size | Sizes], Counts, Intake0) ->
    {_, Intake} = hornbeam_intake:took(Size, Intake0),
    {priority, Priority} = process_info(self(), priority),
    [Priority | priorities(Sizes, next(Counts), Intake)].

next(Counts) ->
    receive packet -> Counts after 0 -> fill(Counts) end.

fill([]) ->
    [];
fill([Count | Counts]) ->
    [self() ! packet || _ <- lists:seq(1, Count)],
    Counts.
