%% SPDX-License-Identifier: Apache-2.0
%% What is decided of an idle connection. That it is done is tested in hornbeam_listener_SUITE.
-module(hornbeam_reaper_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([idle_until_keepalive/1]).
-export([first_request_has_the_time_of_a_head/1]).
-export([first_head_counts_from_the_beginning/1]).
-export([idle_anew/1]).
-export([head_that_drips/1]).
-export([head_behind_a_request/1]).
-export([head_behind_a_request_is_sooner_due/1]).
-export([head_that_never_ends/1]).
-export([no_limits/1]).

-define(LIMITS, #{keepalive => 5000, header_timeout => 10000, max_head => 100}).

all() ->
    [
        idle_until_keepalive,
        first_request_has_the_time_of_a_head,
        first_head_counts_from_the_beginning,
        idle_anew,
        head_that_drips,
        head_behind_a_request,
        head_behind_a_request_is_sooner_due,
        head_that_never_ends,
        no_limits
    ].

%% A connection that says nothing after a response is closed at the limit, if it is so that nothing
%% has come.
idle_until_keepalive(_) ->
    Mark = {3, 500, 0, unseen},
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 4999, total => 3, received => 500})),
    ?assertEqual({look, idle, Mark}, decide(Mark, #{now_ms => 5000, total => 3, received => 500})).

%% One that has not said anything yet has the longer time.
first_request_has_the_time_of_a_head(_) ->
    Mark = {0, 0, 0, unseen},
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 9999, total => 0, received => 0})),
    ?assertEqual({look, both, Mark}, decide(Mark, #{now_ms => 10000, total => 0, received => 0})).

%% That time counts from the beginning, whenever the first bytes are seen.
first_head_counts_from_the_beginning(_) ->
    {keep, Mark} = decide({0, 0, 0, unseen}, #{now_ms => 9000, total => 0, received => 1}),
    ?assertEqual({0, 0, 0, begun}, Mark),
    ?assertEqual({look, both, Mark}, decide(Mark, #{now_ms => 10000, total => 0, received => 1})).

%% After a request its bytes are no bytes of a new head.
idle_anew(_) ->
    Observed = #{now_ms => 100000, total => 4, received => 900},
    ?assertEqual({keep, {4, 900, 100000, unseen}}, decide({3, 500, 1000, begun}, Observed)).

%% The time of a head counts from when its first bytes were seen, however much comes meanwhile.
head_that_drips(_) ->
    Mark0 = {3, 500, 200, unseen},
    {keep, Mark} = decide(Mark0, #{now_ms => 1000, total => 3, received => 501}),
    ?assertEqual({3, 500, 1000, begun}, Mark),
    ?assertEqual({keep, Mark}, decide(Mark, #{now_ms => 10999, total => 3, received => 510})),
    ?assertEqual({look, both, Mark}, decide(Mark, #{now_ms => 11000, total => 3, received => 511})).

%% A part that came behind the last request, before the first sweep, is seen by the connection:
%% when it should be closed for being idle, it has the rest of the time of a head.
head_behind_a_request(_) ->
    Mark = {3, 500, 700, unseen},
    Observed = #{total => 3, received => 500},
    ?assertEqual({look, idle, Mark}, decide(Mark, Observed#{now_ms => 5000})),
    Begun = {3, 500, 700, begun},
    Seen = Observed#{has_begun => true},
    ?assertEqual({keep, Begun}, decide(Mark, Seen#{now_ms => 6000})),
    ?assertEqual({look, both, Begun}, decide(Begun, Seen#{now_ms => 10700})).

%% Where the time of a head is the shorter one, the connection looks once when it is over, and may
%% be idle for longer.
head_behind_a_request_is_sooner_due(_) ->
    Limits = ?LIMITS#{keepalive => 60000},
    Mark = {3, 500, 0, unseen},
    Observed = #{idle_since_ms => 0, total => 3, received => 500, has_begun => false},
    Decide = fun(SomeMark, NowMs) ->
        hornbeam_reaper:decide(Limits, SomeMark, Observed#{now_ms => NowMs})
    end,
    ?assertEqual({keep, Mark}, Decide(Mark, 9999)),
    {look, head, Looked} = Decide(Mark, 10000),
    ?assertEqual({keep, Looked}, Decide(Looked, 59999)),
    ?assertEqual({look, both, Looked}, Decide(Looked, 60000)),
    %% It looked too early for what comes later.
    ?assertMatch({keep, {3, 500, 30000, begun}},
                 hornbeam_reaper:decide(Limits, Looked,
                                        Observed#{now_ms => 30000, received => 501})).

%% More bytes than any head may have are no head.
head_that_never_ends(_) ->
    Mark = {3, 500, 0, unseen},
    ?assertMatch({keep, _}, decide(Mark, #{now_ms => 1, total => 3, received => 600})),
    Begun = setelement(4, setelement(3, Mark, 1), begun),
    ?assertEqual({look, size, Begun}, decide(Mark, #{now_ms => 1, total => 3, received => 601})).

%% `infinity' is never over.
no_limits(_) ->
    Limits = ?LIMITS#{keepalive => infinity, header_timeout => infinity},
    Observed = #{now_ms => 1 bsl 60, idle_since_ms => 0, total => 3, received => 500,
                 has_begun => false},
    [
        ?assertMatch({keep, _}, hornbeam_reaper:decide(Limits, {3, Received, 0, Head}, Observed))
     || Received <- [499, 500], Head <- [unseen, begun]
    ].

%% Internal.

decide(Mark, Observed) ->
    Others = #{idle_since_ms => 0, has_begun => false},
    hornbeam_reaper:decide(?LIMITS, Mark, maps:merge(Others, Observed)).
