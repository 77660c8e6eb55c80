#!/usr/bin/env escript
%% SPDX-License-Identifier: Apache-2.0
%%
%% How long the keys with a prefix take: 100 matches among a million keys.
%%
%%   rebar3 compile && bench/state_keys.escript [KEYS]
-mode(compile).

-define(RUNS, 1000).

main([]) ->
    main(["1000000"]);
main([Text]) ->
    Root = filename:dirname(filename:dirname(filename:absname(escript:script_name()))),
    Folders = filename:join(Root, "_build/default/{lib,checkouts}/*/ebin"),
    ok = code:add_paths(filelib:wildcard(Folders)),
    {ok, _} = application:ensure_all_started(hornbeam),
    Count = list_to_integer(Text),
    [ok = hornbeam_state:set(<<"session:", (integer_to_binary(N))/binary>>, N)
     || N <- lists:seq(1, Count - 100)],
    [ok = hornbeam_state:set(<<"room:", (integer_to_binary(N))/binary>>, N)
     || N <- lists:seq(1, 100)],
    TimesUs = lists:sort([run() || _ <- lists:seq(1, ?RUNS)]),
    io:format("~b keys, 100 matches, ~b runs: median ~b us, 99 % ~b us, worst ~b us~n",
              [Count, ?RUNS, lists:nth(?RUNS div 2, TimesUs),
               lists:nth(?RUNS * 99 div 100, TimesUs), lists:last(TimesUs)]).

run() ->
    {TimeUs, Keys} = timer:tc(fun() -> hornbeam_state:keys(<<"room:">>) end),
    100 = length(Keys),
    TimeUs.
